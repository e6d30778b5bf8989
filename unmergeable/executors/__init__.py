"""Where independent jobs run: here, on threads, or on a Ray cluster. Knows nothing of models."""
