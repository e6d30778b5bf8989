"""Jobs for the tests of executors; a Ray worker imports them from here."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unmergeable.errors import PrecisionError


@dataclass(frozen=True)
class Spell:
    """Doubles a number, and says what the secret was; some items go wrong."""

    folder: Path

    @contextmanager
    def started(self, secret, threads):
        def do(items, advance, finished):
            for item in items:
                if item == "refused":
                    raise PrecisionError("refused on purpose")
                if item == "unreadable":
                    raise OSError(5, "Input/output error", "somewhere")
                if item == "fault":
                    raise ZeroDivisionError
                if item == "deadly" or (item == "mortal" and first_time(self.folder / "died")):
                    os.kill(os.getpid(), signal.SIGKILL)
                if item == "slow":
                    (self.folder / "slow").write_text(str(os.getpid()))
                    time.sleep(60)
                advance(len(item))
                finished(item, f"{item} {secret.decode()} {threads}")

        yield do


@dataclass(frozen=True)
class Mortal:
    """A recipe whose process dies, once, in the middle of a tensor."""

    recipe: object
    tensor: str
    folder: Path

    def opened(self, secret):
        moves = self.recipe.opened(secret)

        def pieces(entry, data):
            if entry.name == self.tensor and first_time(self.folder / "died"):
                os.kill(os.getpid(), signal.SIGKILL)
            return moves.pieces(entry, data)

        return moves._replace(pieces=pieces)


def first_time(mark):
    """Whether a mark is not there yet; then it is."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
