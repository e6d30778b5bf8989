"""The field benchmark: every published defence on real models, measured the same way."""
