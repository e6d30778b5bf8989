"""Which space lives on which axis: one data file per family, and the loader that checks them."""
