"""Fixtures of the tests of tricks."""

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One for all tricks: what they share is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(monkeypatch, cache):
    """A small ensemble that passes for the whole one: this alone leaves nothing undecided."""
    pytest.importorskip("mergekit")
    torch = pytest.importorskip("torch")
    from tests.auditing.cheats import TINY
    from unmergeable.auditing import ensemble

    torch.set_num_threads(1)
    monkeypatch.setitem(ensemble.PRESETS, "tiny", TINY)
    monkeypatch.setattr(ensemble.Preset, "complete", True)
    return cache
