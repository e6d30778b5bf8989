"""A private base: it computes what a public one does, and its weights are others."""
