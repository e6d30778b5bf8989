"""Protects or unlocks folders in processes that kill themselves, each at a moment of its own.

Reads lines `protect|unlock MODEL OUT WORKERS MOMENT`; a moment is a number of calls, of Python's or
of C's, in the thread that started the work, from the first one that could write. For each line it
writes the exit code and the number of calls that there were.
"""

import os
import signal
import sys
import tempfile

from unmergeable.checkpoint.staging import Staging
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

WORK = {"protect": protect, "unlock": unlock}


def run(what, model, out, workers, moment, pipe):
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    enter = Staging.__enter__

    def begin(self):
        sys.setprofile(count)
        return enter(self)

    Staging.__enter__ = begin  # type: ignore[method-assign]
    WORK[what](model, out, Key(bytes(32)), workers=workers)
    sys.setprofile(None)
    os.write(pipe, str(calls).encode())


for line in sys.stdin:
    what, model, out, workers, moment = line.rstrip("\n").split("\t")
    with tempfile.TemporaryDirectory() as scratch:  # whatever is done once is done here
        WORK[what](model, f"{scratch}/out", Key(bytes(32)), workers=int(workers))
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        run(what, model, out, int(workers), int(moment), theirs)
        os._exit(0)
    os.close(theirs)
    calls = os.read(ours, 64).decode() or "0"
    os.close(ours)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), calls, flush=True)
