"""How the files of an output are made side by side."""

import threading

import numpy as np
import pytest

from tests.tiny import LLAMA, content, llama, save
from unmergeable.checkpoint import row_parts, shard
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.source import LocalSource
from unmergeable.checkpoint.staging import Staging
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

SHARDS = 6
KEY = Key(bytes(32))
SWAP = AxisMap.monomial(np.array([1, 0]))


@pytest.fixture
def model(tmp_path):
    return llama(tmp_path / "m", shards=SHARDS)


def copied(model, out, transform, workers):
    """A rewriting that only lets someone look on."""
    with Staging(out, "work") as staging:
        folder = open_folder(model)
        rewrite(folder, staging, transform, workers=workers)
        for name in folder.companions:
            staging.write_file(name, (model / name).read_bytes())
        staging.publish()
    return out


def test_two_threads_write_two_files(tmp_path, model):
    """Threads that write one and the same file wait for each other."""
    first, second, *_ = open_folder(model).files
    both = threading.Barrier(2, timeout=10)
    heads = {first.tensors[0].name, second.tensors[0].name}

    def transform(entry, data):
        if entry.name in heads:
            both.wait()
        return data

    copied(model, tmp_path / "out", transform, 2)
    assert content(tmp_path / "out") == content(model)


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 2), (3, 3), (20, 4)])
def test_few_files_are_open_at_a_time(tmp_path, model, monkeypatch, workers, most):
    """However many small ones there are, and however much memory."""
    plain, count, highest = shard.open_source, 0, 0

    def counting(path):
        nonlocal count, highest
        source = plain(path)
        count += 1
        highest = max(highest, count)
        close = source.close

        def closed():
            nonlocal count
            count -= 1
            close()

        source.close = closed
        return source

    monkeypatch.setattr(shard, "open_source", counting)
    copied(model, tmp_path / "out", lambda entry, data: data, workers)
    assert (count, highest) == (0, most)
    assert content(tmp_path / "out") == content(model)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_without_tensors_is_made_too(tmp_path, workers):
    model = save(tmp_path / "m", {}, LLAMA)
    copied(model, tmp_path / "out", lambda entry, data: data, workers)
    assert content(tmp_path / "out") == content(model)


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_rows_that_can_be_changed_apart_are_read_apart(tmp_path, model, monkeypatch, kind):
    settings = {"kind": kind}
    protect(model, tmp_path / "whole", KEY, settings=settings)
    plain, read = LocalSource.read, {}

    def reading(self, entry, see=None):
        read.setdefault(entry.name, []).append(entry.shape)
        return plain(self, entry, see)

    monkeypatch.setattr(LocalSource, "read", reading)
    monkeypatch.setattr(row_parts, "PIECE", 256)  # two rows
    monkeypatch.setattr(row_parts, "PART", 3 * 256)
    protect(model, tmp_path / "apart", KEY, settings=settings)
    assert read["model.embed_tokens.weight"] == [(6, 32)] * 10 + [(4, 32)]
    assert read["model.layers.0.mlp.up_proj.weight"] == [(48, 32)]
    assert content(tmp_path / "apart") == content(tmp_path / "whole")
    unlock(tmp_path / "apart", tmp_path / "back", KEY)
    if kind == "lossless":
        assert content(tmp_path / "back") == content(model)


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        (TensorMap((None, SWAP)), True),
        (TensorMap((SWAP, None)), False),
        (TensorMap((None, None)), True),
        (TensorMap(()), True),
        (StackMap(np.arange(2), (TensorMap((None, None)),) * 2), False),
        (TensorChain((TensorMap((None, SWAP)),) * 2), True),
        (TensorChain((TensorMap((SWAP, None)),) * 2), False),
    ],
)
def test_which_maps_leave_rows_where_they_are(change, stays):
    assert change.rows_stay == stays
