"""Protect, unlock and inspect a model folder; carry adapters along."""
