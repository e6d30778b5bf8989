"""The demonstration: lock a real expert, try to merge it, unlock it, and say what it is worth."""
