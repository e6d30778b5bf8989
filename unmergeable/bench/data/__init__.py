"""Labelled data sets out of packages, and the tasks made of them."""
