"""Relocate: from a public base to one of the owner's own, which nobody else can merge with.

Experts are fine-tuned from the private base, as from any other, and published under a lock or not.
They merge with each other. An expert of the public base is carried over by distillation. The
private base and this folder's record stay with the owner.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import FAR
from unmergeable.attacks.parts import layers, writers
from unmergeable.checkpoint.companions import RELOCATION
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

# Of the texts, held out to measure on; and the fewest that a base can be grown on.
HELD_OUT, FEWEST = 600, 2000
# Of the texts grown on, so many more are random tokens.
RANDOM = 0.05
# Above this share of the states' variance a base has lost what the public one knows.
BOUND = 0.5
# Highest learning rate when an expert is carried over: its layers do nearly what they shall do.
CARRY_RATE = 3e-4
_PLAN, _LAYER = "plan.json", "layer-{}.safetensors"


@dataclass(frozen=True)
class RelocateReport:
    """A private base, or an expert that was carried over to one.

    Attributes:
        out: its folder.
        effort: how much work was put in.
        seconds: that it took, in this run.
        texts: how many it was grown on.
        error: how far its last states are from those of the public base, or of the expert, on
            held-out text, as a share of their variance.
        distance: of the layers' weights from that model's, relative to those.

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
    expert: str | Path | None = None,
    effort: str | Growth = "medium",
    device: str = AUTO,
    progress: Progress = silent,
) -> RelocateReport:
    """Makes a private base from a public one: destroys its blocks and grows them again.

    A run that was interrupted goes on with the block in work when it is called again. With
    `expert`, carries one over to a private base that is there: all its layers are trained together,
    on the expert's states.

    Args:
        base: a model folder or a Hub id; with `expert`, a private base.
        out: the new folder; never publish a private base.
        texts: generic texts; or a file of them, one per line, or JSONL with the field `text`. Each
            is cut at 128 tokens.
        key: the owner's; what is drawn comes from it.
        expert: a fine-tune of the public base.
        effort: "low", "medium" or "high", or a `Growth`.
        device: where it trains; see `audit`.
        progress: is told how far it is.

    Returns:
        What was made, and how near it is to the public base.

    Raises:
        InputError: too few texts; a run that diverged; a base whose function was lost; a base that
            is not private, or of which the expert is no fine-tune.
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
    out, folder = Path(out), open_folder(resolve(base if expert is None else expert))
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
        state = dict(Weights.read(folder).tensors)
        private = None
        if expert is not None:
            private = _private(open_folder(resolve(base)), state, layout)
            growth = replace(growth, block_steps=0, disturbance=0.0, rate=CARRY_RATE)
        runner = ModelRunner.of(folder.local)
        digest = _digest(folder)
        seed = int.from_bytes(owner.derive(f"relocate {digest}", 4))
        lines = tuple(shuffled(lines, seed))
        held, grown_on = lines[:HELD_OUT], lines[HELD_OUT:][: _room(growth)]
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
        made = regrowth.finish(private or _grown(regrowth, work, count), count)
        error = regrowth.error(made)
        if not error < BOUND:
            work.remove()  # the same would come out again
            lost, advice = "the private base lost the public one's function", "or --effort high"
            if private is not None:
                lost = "what the expert computes did not come over"
                advice = "of its task too, or fine-tune from the private base instead"
            raise InputError(
                f"{lost}: {error:.0%} of the variance of its states on held-out text is off, and "
                f"{BOUND:.0%} is the bound. Give more text, {advice}."
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
        if private is None:
            record = {**asdict(report), "out": out.name, "growth": asdict(growth), "key": owner.id}
            staging.write_file(RELOCATION, json.dumps(record, indent=2).encode())
        staging.publish()
        work.remove()
    return report


def _grown(regrowth: Regrowth, work: _Work, count: Counter) -> State:
    """The base, destroyed, with its blocks grown one by one."""
    student: State = regrowth.destroyed()

    def known(layer: int) -> State | None:
        found = work.known(layer)
        if found is not None:
            count.skip(regrowth.growth.block_steps)
        return found

    for layer, tensors in regrowth.grow(student, count, known):
        work.keep(layer, tensors)
        student = {**student, **tensors}
    return student


def _private(folder: ModelFolder, expert: State, layout: Layout) -> State:
    """An expert's tensors with a private base's layers.

    Raises:
        InputError: no private base, or none of which the expert could be.
    """
    if not folder.is_private:
        raise InputError(
            f"{folder.path} is no private base: it has no {RELOCATION}. Make one first, without "
            "--expert."
        )
    base = Weights.read(folder).tensors
    inside = {name for layer in layers(layout, "layer") for name in layer}
    shared = [name for name in expert if name in base and base[name].shape == expert[name].shape]
    # Embeddings and norms outside the layers are the public base's, and the expert's nearly.
    outside = {name for name in shared if name not in inside and base[name].is_floating_point()}
    if not inside <= set(shared) or (outside and _distance(base, expert, outside) > FAR):
        raise InputError(
            f"the expert is no fine-tune of the base that {folder.path} was made from: its layers "
            "have other shapes, or its embeddings are too far from that base's."
        )
    return {name: base[name] if name in inside else one for name, one in expert.items()}


def _growth(effort: str) -> Growth:
    if effort not in EFFORTS:
        raise InputError(f"effort {effort!r} is unknown: use {', '.join(EFFORTS)}.")
    return EFFORTS[effort]


def _room(growth: Growth) -> int:
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
