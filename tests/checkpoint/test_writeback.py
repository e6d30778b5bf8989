"""How files get to the disk while they are written."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Thread

import pytest

from tests.tiny import llama
from unmergeable.checkpoint import writeback
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.writeback import Writeback
from unmergeable.errors import InputError
from unmergeable.executors.executor import Inline
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(32))


@pytest.fixture
def calls(monkeypatch):
    """What was asked of the disk, call by call."""
    seen = []

    def noted(name, plain, *arguments):
        seen.append(name)
        plain(*arguments)

    for name in ("fdatasync", "fsync", "posix_fadvise", "close"):
        monkeypatch.setattr(os, name, partial(noted, name, getattr(os, name)))
    monkeypatch.setattr(writeback, "FLUSH", 10)
    return seen


def written(path, sizes, lasting):
    """Writes so many bytes, again and again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    file = Writeback(descriptor, Inline(), lasting)
    for size in sizes:
        os.write(descriptor, bytes(size))
        file.wrote(size)
    file.finish().result()


def test_a_file_is_sent_on_some_bytes_at_a_time_and_its_pages_are_let_go(tmp_path, calls):
    written(tmp_path / "file", [9, 1, 9, 12], lasting=True)
    flushed = ["fdatasync", "posix_fadvise"]
    assert calls == [*flushed, *flushed, "fsync", "posix_fadvise", "close"]


def test_a_file_that_does_not_stay_is_not_brought_to_the_disk(tmp_path, calls):
    """It is about to be read again, for its way to a store."""
    written(tmp_path / "file", [9, 1, 9, 12], lasting=False)
    assert calls == ["close"]


def test_a_writer_waits_for_a_disk_that_is_behind(tmp_path, calls, monkeypatch):
    slow, done = Event(), []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: slow.wait(10))

    def write():
        for at in range(writeback.AHEAD + 1):
            file.wrote(10)
            done.append(at)

    with ThreadPoolExecutor(1) as disk:
        file = Writeback(os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT), disk, lasting=True)
        writer = Thread(target=write)
        writer.start()
        writer.join(0.2)
        assert done == list(range(writeback.AHEAD))
        slow.set()
        writer.join(10)
        assert len(done) == writeback.AHEAD + 1
        file.finish().result()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("refused", [0, 3, -1])
def test_what_the_disk_refuses_is_heard(tmp_path, calls, monkeypatch, workers, refused):
    """It tells of an error once: at the flush, and not again when the file ends."""
    model = llama(tmp_path / "m", shards=3)
    protect(model, tmp_path / "out", KEY, workers=workers)
    count = calls.count("fdatasync")
    assert count >= sum(len(header.tensors) for header in open_folder(model).files)
    refusals, plain = iter(range(count)), os.fdatasync

    def fdatasync(descriptor):
        plain(descriptor)
        if next(refusals) == refused % count:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(InputError, match=r"model-0000\d.*Input/output error"):
        protect(model, tmp_path / "again", KEY, workers=workers)
    assert not (tmp_path / "again").exists()
