"""What a model is scored on, and what a merge is worth."""
