"""The release, in one place: manifests and the command line name it."""

__version__ = "0.1.0"
