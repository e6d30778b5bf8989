"""At whichever file-system call a run is killed or meets an error: the output is absent or complete
and correct, nothing else is changed, and the same command finishes.

UNMERGEABLE_CALLS=400 does so more often than the tests do by default.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import content, llama, lora
from unmergeable.keys.key import keygen
from unmergeable.protection.adapters import protect_adapter
from unmergeable.protection.protect import protect

KILLS = int(os.environ.get("UNMERGEABLE_CALLS", "119"))
LAST = 6  # calls at the end, where the output gets its name, that are always among them
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Inputs of every kind of work."""
    place = tmp_path_factory.mktemp("calls")
    key = str(place / "key")
    keygen(key)
    keygen(place / "next")
    base = llama(place / "base", shards=2, num_hidden_layers=1)
    model = llama(place / "model", shards=2, num_hidden_layers=1, seed=1)
    for folder in (base, model):
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text("{}")
    protect(model, place / "locked", key)
    protect_adapter(lora(place / "lora"), place / "locked lora", key, place / "locked")
    (place / "precious").write_text("dear")
    return place


@pytest.fixture(scope="module")
def mother():
    """A process that has everything loaded, and does each piece of work in a child."""
    command = [sys.executable, HERE / "killable_calls.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:

        def run(work, args, more, out, call=0, how="kill"):
            line = {"work": work, "args": args, "more": more, "out": out, "call": call, "how": how}
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            return tuple(map(int, process.stdout.readline().split()))

        yield run
        process.stdin.close()


def work_of(place, name, out):
    """The arguments of each kind of work, by position and by name."""
    base, model, locked, key = (str(place / n) for n in ("base", "model", "locked", "key"))
    return {
        "protect": ([model, out, key], {"workers": 1}),
        "unlock": ([locked, out, key], {"workers": 1}),
        "relock": ([locked, out, key, str(place / "next")], {"workers": 1}),
        "merge": ([[base, model], out, "linear"], {"parameters": {"weight": [0.5, 0.5]}}),
        "align": ([locked, out, base], {}),
        "protect_adapter": ([str(place / "lora"), out, key, locked], {}),
        "unlock_adapter": ([str(place / "locked lora"), out, key, locked], {}),
    }[name]


WORK = ["protect", "unlock", "relock", "merge", "align", "protect_adapter", "unlock_adapter"]


@pytest.mark.parametrize("how", ["kill", "error"])
@pytest.mark.parametrize("name", WORK)
def test_at_whichever_call_a_run_ends_nothing_is_wrong(place, tmp_path, mother, name, how):
    if name == "merge":
        pytest.importorskip("mergekit")
    before, wanted = content(place), tmp_path / "wanted"
    args, more = work_of(place, name, str(wanted))
    code, calls = mother(name, args, more, str(wanted))
    assert code == 0
    draw = random.Random(f"{name} {how}")
    count = KILLS // len(WORK) if how == "kill" else KILLS // len(WORK) // 2
    moments = {1 + int(calls * (part + draw.random()) / count) for part in range(count - LAST)}
    ended = 0
    for moment in sorted({*moments, *range(calls - LAST + 1, calls + 1)}):
        above = tmp_path / f"{how} {moment}"
        above.mkdir()
        (above / "precious").write_text("dear")
        out = str(above / "out")
        args, more = work_of(place, name, out)
        code, _ = mother(name, args, more, out, moment, how)
        assert code in ({0, -signal.SIGKILL} if how == "kill" else {0, 3}), moment
        ended += code != 0
        if (above / "out").exists():
            assert content(above / "out") == content(wanted), moment
        else:
            _check_left(above)
            code, _ = mother(name, args, more, out)
            assert code == 0, moment
            assert content(above / "out") == content(wanted), moment
        left = {path.name for path in above.iterdir()} - {"out", "precious"}
        assert left <= {".out.publish"}, moment  # the next run that is given this name removes it
        assert (above / "precious").read_text() == "dear"
        assert content(place) == before, moment
    assert ended > count // 2


def _check_left(above):
    """Nobody but its owner sees into what a run left."""
    for path in above.glob(".*"):
        assert path.name in (".out.partial", ".out.publish")
        published = (above / ".out.publish").exists()  # it was about to get its name
        assert published or not path.stat().st_mode & 0o077
