"""Benchmarks: real models and data, the field's table, and the demonstration."""
