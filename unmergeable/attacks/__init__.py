"""The adversary: one who knows the defence, and holds the public base model."""
