"""Every test runs offline, on one thread, with tiny seeded models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import settings

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")
