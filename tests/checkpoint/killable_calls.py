"""Does pieces of work in processes that end, or are told of an error, at a file-system call.

Reads lines of JSON: `work`, the arguments as `args` and `more`, the number of the `call` (0: none),
and `how`: "kill" or "error". For each it writes the exit code (3 for an error that is a sentence, 1
for any other) and the number of calls that there were.
"""

import json
import os
import signal
import sys
import tempfile
import threading

from unmergeable.attacks.align import align
from unmergeable.errors import UnmergeableError
from unmergeable.merging.merge import merge
from unmergeable.protection.adapters import protect_adapter, unlock_adapter
from unmergeable.protection.protect import protect, unlock
from unmergeable.protection.relock import relock

WORK = {
    work.__name__: work
    for work in (protect, unlock, relock, merge, align, protect_adapter, unlock_adapter)
}
# What Python tells of calls itself, and what it does not.
TOLD = {
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink",
    "os.truncate", "os.listdir", "os.scandir", "os.utime", "fcntl.flock",
}  # fmt: skip
UNTOLD = ("write", "pwrite", "preadv", "pread", "fsync", "fdatasync", "stat", "fstat")
# What a process that is killed leaves does not depend on the disk, whose time these would take.
SKIPPED = ("fsync", "fdatasync")


def count_calls(end_at, how):
    """Counts this process's file-system calls from now on; returns what tells the number."""
    calls, guard = 0, threading.Lock()

    def called(event):
        nonlocal calls
        with guard:
            calls += 1
            now = calls == end_at
        if now and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if now:
            raise OSError(5, "Input/output error")

    def told(event, arguments):
        if event in TOLD:
            called(event)

    def wrapped(plain, name):
        def call(*args, **kwargs):
            called(name)
            return None if name in SKIPPED else plain(*args, **kwargs)

        return call

    for name in UNTOLD:
        setattr(os, name, wrapped(getattr(os, name), name))
    sys.addaudithook(told)
    return lambda: calls


def child(line, pipe):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    calls = count_calls(line["call"], line["how"])
    try:
        WORK[line["work"]](*line["args"], **line["more"])
        code = 0
    except (UnmergeableError, OSError):  # the command line makes a sentence of either
        code = 3
    except BaseException:
        code = 1
    os.write(pipe, str(calls()).encode())
    os._exit(code)


warm = set()
for text in sys.stdin:
    line = json.loads(text)
    if line["work"] not in warm:  # whatever is done once is done here
        warm.add(line["work"])
        with tempfile.TemporaryDirectory() as scratch:
            args = [f"{scratch}/out" if arg == line["out"] else arg for arg in line["args"]]
            WORK[line["work"]](*args, **line["more"])
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        child(line, theirs)
    os.close(theirs)
    calls = os.read(ours, 64).decode() or "0"
    os.close(ours)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), calls, flush=True)
