"""Whether a model contains an owner's expert, and whose copy of it."""
