"""Merge methods: the bridge to mergekit, and merging under a key."""
