"""Every test runs offline, on one thread, with tiny seeded models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from hashlib import sha256

import pytest
from hypothesis import settings

from unmergeable import protection

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")

SALT = protection._salt


@pytest.fixture(autouse=True, scope="session")
def _salts_that_stay():
    """A lock's salt follows from its folder's name: every run of the tests draws the same locks."""

    def salt(folder, key, line, about):
        name = f"{folder.path.name} {about}".encode()
        return SALT(folder, key, line, about) if line else sha256(name).hexdigest()[:32]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protection, "_salt", salt)
        yield
