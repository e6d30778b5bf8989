"""The defences, one file each, named after their papers; and the registry of their names."""
