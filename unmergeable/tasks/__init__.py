"""What a model is scored on: real labelled texts, fetched at run time and never committed."""
