"""What a key gives back, without a file of it anywhere."""

import builtins
import os

import numpy as np
import pytest

from tests.tiny import content, llama, weights_of
from unmergeable.auditing.unlocked import unlocked
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import KeyFileError, ManifestError
from unmergeable.gauge import tensor_map
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(32))


@pytest.fixture
def model(tmp_path):
    return llama(tmp_path / "m", shards=2)


@pytest.mark.parametrize("piece", [tensor_map.PIECE, 64])
@pytest.mark.parametrize("settings", [{}, {"kind": "general"}])
def test_it_is_the_original_and_nothing_is_written(tmp_path, model, monkeypatch, settings, piece):
    monkeypatch.setattr(tensor_map, "PIECE", piece)  # tensors of a real model come in many
    protect(model, tmp_path / "locked", KEY, settings=settings)
    before = content(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written, opened, at = [], builtins.open, os.open

    def watch_open(file, mode="r", *args, **kwargs):
        written.extend([file] * bool(set(mode) & set("wax+")))
        return opened(file, mode, *args, **kwargs)

    def watch_at(file, flags, *args, **kwargs):
        written.extend([file] * bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        return at(file, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", watch_open)
        patch.setattr("io.open", watch_open)
        patch.setattr(os, "open", watch_at)
        found = unlocked(open_folder(tmp_path / "locked"), KEY)
    assert set(written) <= {os.devnull}
    assert content(tmp_path) == before
    assert found.exact is (not settings)
    for name, wanted in weights_of(model).items():
        got = found.weights.tensors[name].numpy()
        assert np.array_equal(got, wanted) if found.exact else np.allclose(got, wanted, atol=1e-3)


def test_another_key_is_refused(tmp_path, model):
    protect(model, tmp_path / "locked", KEY)
    with pytest.raises(KeyFileError):
        unlocked(open_folder(tmp_path / "locked"), Key(bytes(31) + b"\1"))


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
def test_a_file_that_was_changed_is_refused(tmp_path, model, name):
    protect(model, tmp_path / "locked", KEY)
    path = tmp_path / "locked" / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(path.read_bytes() + b"\n" if name.endswith("json") else raw)
    with pytest.raises(ManifestError, match=f"{name} is not the file that was protected"):
        unlocked(open_folder(tmp_path / "locked"), KEY)
