"""Real models that install by package name.

Nothing here is needed to protect, verify or unlock a model: the zoo is what the demonstration and
the benchmarks measure on. Every function returns a folder in the cache (see
[`cache`][unmergeable.evaluation.store]) and builds it on first use.
"""
