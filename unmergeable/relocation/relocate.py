"""Relocate: from a public base to one of the owner's own, which nobody else can merge with.

Experts are fine-tuned from the private base, as from any other, and published under a lock or not.
They merge with each other. The private base and this folder's record stay with the owner.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.parts import layers, writers
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.small_files import write_over
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences.unlabelled import read_unlabelled
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.evaluation.store import file_hash
from unmergeable.extras import optional
from unmergeable.keys.key import Key, load_key
from unmergeable.merging.method import State
from unmergeable.models.device import AUTO, running_on
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.weights import Weights
from unmergeable.progress import Counter, Progress, silent
from unmergeable.relocation.regrowth import EFFORTS, Growth, Regrowth
from unmergeable.relocation.texts import (
    BATCH,
    corpus,
    joined,
    random_corpus,
    shuffled,
)
from unmergeable.training.output import write_model

RECORD = "relocation.json"
# Of the texts, held out to measure on; and the fewest that a base can be grown on.
HELD_OUT, FEWEST = 600, 2000
# Of the texts grown on, so many more are random tokens.
RANDOM = 0.05
# Above this share of the states' variance a base has lost what the public one knows.
BOUND = 0.5
_PLAN, _LAYER = "plan.json", "layer-{}.safetensors"


@dataclass(frozen=True)
class RelocateReport:
    """A private base.

    Attributes:
        out: its folder.
        effort: how much work was put in.
        seconds: that it took, in this run.
        texts: how many it was grown on.
        error: how far its last states are from the public base's on held-out text, as a share of
            their variance.
        distance: of the layers' weights from the public base's, relative to those.

    Examples:
        >>> effort = unmergeable.Growth(block_steps=20, steps=80, disturbance=0.5)
        >>> report = unmergeable.relocate("base", "own", "texts.txt", "owner.key", effort=effort)
        >>> report.distance > 0.1
        True
    """

    out: Path
    effort: str
    seconds: float
    texts: int
    error: float
    distance: float


def relocate(
    base: str | Path,
    out: str | Path,
    texts: str | Path | Sequence[str],
    key: Key | str | Path,
    *,
    effort: str | Growth = "medium",
    device: str = AUTO,
    progress: Progress = silent,
) -> RelocateReport:
    """Makes a private base from a public one: destroys its blocks and grows them again.

    A run that was interrupted goes on with the block in work when it is called again.

    Args:
        base: a model folder or a Hub id.
        out: the new folder; never publish it.
        texts: generic texts; or a file of them, one per line, or JSONL with the field `text`. Each
            is cut at 128 tokens.
        key: the owner's; what is drawn comes from it.
        effort: "low", "medium" or "high", or a `Growth`.
        device: where it trains; see `audit`.
        progress: is told how far it is.

    Returns:
        What was made, and how near it is to the public base.

    Raises:
        InputError: too few texts; a run that diverged; a base whose function was lost.
        UnsupportedError: a base of a family that nobody declared, or whose layers are not one
            stack.

    Examples:
        >>> effort = unmergeable.Growth(block_steps=20, steps=80, disturbance=0.0)
        >>> report = unmergeable.relocate("base", "own", "texts.txt", "owner.key", effort=effort)
        >>> 0 < report.error < 0.5
        True
    """
    optional("torch")
    start = time.perf_counter()
    out, place = Path(out), resolve(base)
    folder = open_folder(place)
    layout = Layout.of_folder(folder)
    layout.check_plain("relocated")
    if not layers(layout, "layer") or not writers(layout):
        raise UnsupportedError(
            f"{layout.family} cannot be relocated: its layers are not one stack."
        )
    if isinstance(texts, str | Path) and Path(texts).is_dir():
        raise InputError(f"{texts} is a folder: a private base is regrown on text so far.")
    lines = tuple(dict.fromkeys(map(str.strip, read_unlabelled(texts))))
    if len(lines) < FEWEST:
        raise InputError(
            f"{len(lines)} texts cannot hold a model's function: give {FEWEST} or more, and better "
            "ten times as many. Generic text will do; it need not be that of a task."
        )
    owner = key if isinstance(key, Key) else load_key(key)
    growth = effort if isinstance(effort, Growth) else _growth(effort)
    with running_on(device), Staging(out, None) as staging:
        runner = ModelRunner.of(place)
        state = dict(Weights.read(place).tensors)
        digest = _digest(folder)
        seed = int.from_bytes(owner.derive(f"relocate {digest}", 4))
        lines = tuple(shuffled(lines, seed))
        held, grown_on = lines[:HELD_OUT], lines[HELD_OUT:][: _room(growth, layout)]
        regrowth = Regrowth(
            runner,
            layout,
            state,
            joined(
                corpus(runner, grown_on), random_corpus(runner, int(RANDOM * len(grown_on)), seed)
            ),
            corpus(runner, held),
            growth,
            seed,
        )
        count = Counter(progress, "growing", regrowth.steps, "steps")
        content = hashlib.sha256("\n".join(grown_on).encode()).hexdigest()
        plan = {"base": digest, "seed": seed, "growth": asdict(growth), "texts": content}
        work = _Work(out, plan)
        student: State = regrowth.destroyed()

        def known(layer: int) -> State | None:
            found = work.known(layer)
            if found is not None:
                count.skip(growth.block_steps)
            return found

        for layer, tensors in regrowth.grow(student, count, known):
            work.keep(layer, tensors)
            student = {**student, **tensors}
        made = regrowth.finish(student, count)
        error = regrowth.error(made)
        if not error < BOUND:
            work.remove()  # the same would come out again
            raise InputError(
                f"the private base lost the public one's function: {error:.0%} of the variance of "
                f"its states on held-out text, and {BOUND:.0%} is the bound. Give more text, or "
                "--effort high."
            )
        report = RelocateReport(
            out.resolve(),
            effort if isinstance(effort, str) else "own",
            time.perf_counter() - start,
            len(grown_on),
            error,
            _distance(state, made, regrowth.trained),
        )
        runner.load_state(made)
        write_model(folder, runner.model, runner.folder_names(), staging)
        record = {**asdict(report), "out": out.name, "growth": asdict(growth), "key": owner.id}
        staging.write_file(RECORD, json.dumps(record, indent=2).encode())
        staging.publish()
        work.remove()
    return report


def _growth(effort: str) -> Growth:
    if effort not in EFFORTS:
        raise InputError(f"effort {effort!r} is unknown: use {', '.join(EFFORTS)}.")
    return EFFORTS[effort]


def _room(growth: Growth, layout: Layout) -> int:
    """How many texts the steps can read once."""
    return BATCH * max(growth.block_steps, growth.steps)


def _digest(folder: ModelFolder) -> str:
    """What tells one base from another: the digests of its weight files."""
    return " ".join(file_hash(Path(str(header.path))) for header in folder.files)


def _distance(one: State, two: State, names: set[str]) -> float:
    gap = sum(float((two[name] - one[name]).double().square().sum()) for name in names)
    return math.sqrt(gap / sum(float(one[name].double().square().sum()) for name in names))


class _Work:
    """The blocks that are grown already, beside the output.

    Args:
        out: the output.
        plan: what they depend on; blocks of another plan are thrown away.
    """

    def __init__(self, out: Path, plan: dict[str, object]) -> None:
        self._folder = out.with_name(f".{out.name}.growing")
        text = json.dumps(plan, sort_keys=True)
        if not self._is_of(text):
            self.remove()
            self._folder.mkdir(parents=True)
            write_over(self._folder / _PLAN, text.encode())

    def known(self, layer: int) -> State | None:
        """A block that was grown by an earlier run."""
        from safetensors.torch import load_file

        path = self._folder / _LAYER.format(layer)
        return load_file(path) if path.exists() else None

    def keep(self, layer: int, tensors: State) -> None:
        """Keeps a block."""
        from safetensors.torch import save

        path = self._folder / _LAYER.format(layer)
        if not path.exists():
            write_over(path, save({name: one.contiguous() for name, one in tensors.items()}))

    def remove(self) -> None:
        """Removes all blocks."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_of(self, text: str) -> bool:
        try:
            return (self._folder / _PLAN).read_text("utf-8") == text
        except OSError:
            return False
