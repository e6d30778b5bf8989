"""Spaces and groups: draw an element, carry it onto a tensor's axes, apply it, invert it.

Nothing here knows of files, keys or architectures.
"""
