"""What a protection is worth, measured by running models."""
