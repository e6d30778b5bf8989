"""Models in memory: weights by name, and a stock transformers model that they are loaded into."""
