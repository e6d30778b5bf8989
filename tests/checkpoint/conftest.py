"""What several tests of rewriting look at."""

import pytest

from tests.conftest import SALT
from tests.tiny import content
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.keys.key import Key
from unmergeable.protection import protect as protection
from unmergeable.protection.protect import protect


@pytest.fixture(autouse=True)
def _salts_of_processes(monkeypatch):
    """Some of these tests go on with what another process began."""
    monkeypatch.setattr(protection, "salt_of", SALT)


@pytest.fixture
def undisturbed(tmp_path, model):
    """What the module's model becomes under its key when nothing goes wrong."""
    protect(model, tmp_path / "undisturbed", Key(bytes(32)))
    return content(tmp_path / "undisturbed")


@pytest.fixture
def applied(monkeypatch):
    """Counts the tensors that are worked on."""
    calls = []
    plain = TensorMap.pieces

    def count(self, *args, **kwargs):
        calls.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(TensorMap, "pieces", count)
    return calls
