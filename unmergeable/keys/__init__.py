"""The owner's secret: its file, and the streams drawn from it."""
