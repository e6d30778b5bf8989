"""Protects a folder and gets stuck, for a test to kill: MODEL OUT TENSORS-BEFORE."""

import sys
import time

from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

pieces = TensorMap.pieces
left = int(sys.argv[3])


def stuck(self, *args, **kwargs):
    global left
    left -= 1
    if left < 0:
        time.sleep(60)
    return pieces(self, *args, **kwargs)


TensorMap.pieces = stuck  # type: ignore[method-assign]
protect(
    sys.argv[1],
    sys.argv[2],
    Key(bytes(32)),
    workers=1,
    progress=lambda status: print(status.done, flush=True),
)
