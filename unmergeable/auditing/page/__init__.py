"""What pages are made of: a frame with its style and script, words for figures, price curves.

The audit's report and the field benchmark are such pages. A page opens offline, is complete without
its script, and follows light and dark mode.
"""
