"""Protect, unlock and inspect a model folder; mark adapters, and carry them along."""
