"""How the files of an output are made side by side."""

import threading

import pytest

from tests.tiny import LLAMA, content, llama, save
from unmergeable.checkpoint import shard
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.staging import Staging

SHARDS = 6


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
