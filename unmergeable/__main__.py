"""`python -m unmergeable`."""

from unmergeable.cli import entry_point

entry_point()
