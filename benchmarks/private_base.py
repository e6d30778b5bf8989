"""What a private base costs its owner, whether its experts merge, and what a thief still gets.

    python benchmarks/private_base.py --effort low medium --write    # about an hour on 2 cores

The encoder suite: the owner fine-tunes two tasks from the public base and from each private one,
and merges the two; the thief holds the public base and an expert of a third task. No lock is put
on the experts: it is assumed undone. Merges are by task arithmetic, with coefficients from a grid
chosen on 128 validation items of each task and V told on 600 test items. The zero of the owner's
task is the public base under the better of two heads: the released one, and one fitted to the base.
Every expert of a private base is trained twice as long as one of the public base. One seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.attack import Thief
from unmergeable.attacks.distil import SYNTHETIC_PLAN, distil
from unmergeable.attacks.pull_back import pull_back
from unmergeable.attacks.texts import in_order
from unmergeable.bench.data.wordnet import lines
from unmergeable.bench.field.suites import ENCODER
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.evaluation import store
from unmergeable.evaluation.heads import Head
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.task import Task
from unmergeable.evaluation.texts import TextTask
from unmergeable.evaluation.value import merge_value
from unmergeable.keys.key import Key
from unmergeable.merging.method import Corpus
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once
from unmergeable.models.weights import Weights
from unmergeable.relocation.relocate import relocate
from unmergeable.training.experts import HeadRecipe, expert
from unmergeable.training.probe import headed, probe, write_head

DOCS = Path(__file__).parents[1] / "docs" / "private-base.md"
KEY = Key(bytes(range(32)))
OWNER, PEER = ("uses", "largest"), "persons"
# The owner grows on the first texts; the thief has others, of the same kind.
TEXTS, THIEFS = 60_000, 2_000
USUAL, LONGER = HeadRecipe(), HeadRecipe(steps=300)
ONES = (0.3, 0.5, 0.7, 1.0, 1.3)
GRID = (*itertools.product(ONES, ONES), (0.15, 1.3), (1.0, 1.6), (0.3, 2.0))
CHOICE, TEST = 128, 600
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Known:
    """A task with its expert, and the two ends of its scale.

    Attributes:
        task: with its head.
        weights: the expert's.
        zero: the base's scores, on validation and on test items.
        top: the expert's.
    """

    task: Task
    weights: State
    zero: tuple[Score, Score]
    top: tuple[Score, Score]


class Bench:
    """The suite's public base and what scores weights of its shapes."""

    def __init__(self) -> None:
        self.base = ENCODER.base(None)
        self.runner = ModelRunner.of(self.base)
        self.public: State = dict(Weights.read(self.base).tensors)
        folder = open_folder(self.base)
        self.layout = Layout.of(folder.config, folder.shapes)
        found = lines()
        self.texts, self.generic = found[:TEXTS], found[TEXTS : TEXTS + THIEFS]

    def both(self, weights: State, task: Task) -> tuple[Score, Score]:
        """Scores on validation and on test items."""
        self.runner.load_state(weights)
        items = task.items("validation", CHOICE), task.items("test", TEST)
        first, second = (task.exam(self.runner, some)() for some in items)
        return first, second

    def trained(self, base: Path, name: str, recipe: HeadRecipe, zero: State) -> Known:
        """An expert of a task, on the scale that begins at some weights under its head."""
        folder = expert(base, ENCODER[name].task(), recipe)
        task, weights = headed(ENCODER[name].task(), folder), dict(Weights.read(folder).tensors)
        return Known(task, weights, self.both(zero, task), self.both(weights, task))

    def merge(self, base: State, experts: Sequence[Known]) -> str:
        """V of the best merge by task arithmetic."""
        best: tuple[float, tuple[float, ...]] | None = None
        for pair in GRID:
            state = added(base, [one.weights for one in experts], pair)
            worst = min(
                (self.both(state, one.task)[0].accuracy - one.zero[0].accuracy)
                / (one.top[0].accuracy - one.zero[0].accuracy)
                for one in experts
            )
            if best is None or worst > best[0]:
                best = worst, pair
        assert best is not None
        return self.value(added(base, [one.weights for one in experts], best[1]), experts)

    def value(self, state: State, experts: Sequence[Known]) -> str:
        """V of some weights, with its interval."""
        scores = [self.both(state, one.task)[1] for one in experts]
        found = merge_value(scores, [o.zero[1] for o in experts], [o.top[1] for o in experts])
        assert found is not None
        told = found.estimate
        return f"{told.value:.2f} ({told.low:.2f} to {told.high:.2f})"


def added(base: State, experts: Sequence[State], weights: Sequence[float]) -> State:
    """A merge by task arithmetic."""
    made = {}
    for name, start in base.items():
        if start.is_floating_point():
            gaps = (w * (one[name] - start) for w, one in zip(weights, experts, strict=True))
            start = start + sum(gaps)
        made[name] = start
    return made


def rows(bench: Bench, efforts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """A row for the public base, and for each private one."""
    peer = bench.trained(bench.base, PEER, USUAL, bench.public)
    for effort in ("", *efforts):
        base, cost = bench.base, "0"
        if effort:
            base, cost = private(bench, effort)
        own = dict(Weights.read(base).tensors)
        recipe = LONGER if effort else USUAL
        children = [bench.trained(base, name, recipe, own) for name in OWNER]
        released = stolen(bench, children[0])
        yield (
            f"private, {effort} effort" if effort else "public",
            cost,
            *(f"{child.top[1].accuracy:.1%}" for child in children),
            bench.merge(own, children),
            bench.merge(bench.public, [released, peer]),
            *repaired(bench, released, peer),
        )


def private(bench: Bench, effort: str) -> tuple[Path, str]:
    """The private base of an effort, and what it cost: seconds, error, distance."""
    inputs = {
        "effort": effort,
        "code": 1,
        "base": store.file_hash(bench.base / "model.safetensors"),
    }

    def make(out: Path) -> None:
        relocate(bench.base, out / "model", bench.texts, KEY, effort=effort)

    found = store.get_or_make("models/private-minilm", inputs, make) / "model"
    record = json.loads((found / "relocation.json").read_text("utf-8"))
    return found, f"{record['seconds']:.0f}"


def stolen(bench: Bench, child: Known) -> Known:
    """The owner's expert on the thief's scale: the best zero that anybody can make."""
    task: Any = child.task
    bench.runner.load_state(bench.public)
    with tempfile.TemporaryDirectory() as folder:
        head = probe(bench.runner, replace(task, head=None), USUAL.pooling, USUAL.penalty)
        write_head(head, USUAL.pooling, Path(folder))
        probed: TextTask = replace(
            task, head=Head(Path(folder) / "head.safetensors", USUAL.pooling)
        )
        zeros = [bench.both(bench.public, one) for one in (task, probed)]
    return replace(child, zero=max(zeros, key=lambda pair: pair[1].accuracy))


def repaired(bench: Bench, released: Known, peer: Known) -> Iterator[str]:
    """V after a pull-back on generic text, and after distilling on random tokens."""
    task = released.task
    batches = task.batches(bench.runner, bench.generic, None, in_order)
    thief = Thief(
        bench.public, [peer.weights], bench.layout, bench.runner, {"generic": Corpus(task, batches)}
    )
    found = "0"
    for variant in pull_back(thief, released.weights, "generic"):
        found = max(
            found, bench.merge(bench.public, [replace(released, weights=variant.state), peer])
        )
    yield found
    start = added(bench.public, [released.weights, peer.weights], (1.0, 1.0))
    learnt = distil(thief, released.weights, start, "random", plan=SYNTHETIC_PLAN)
    yield max(bench.value(variant.state, [released, peer]) for variant in learnt)


HEAD = (
    "base", "owner's seconds, once", f"expert of {OWNER[0]}", f"expert of {OWNER[1]}",
    "own merge, V", "thief's merge, V", "after a pull-back on 2,000 generic texts",
    "after distilling on random tokens",
)  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", nargs="+", default=["low", "medium"])
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    table = [HEAD, ("---",) * len(HEAD)]
    for row in rows(Bench(), options.effort):
        print(" | ".join(row), flush=True)
        table.append(row)
        if options.write:  # after each row, which takes minutes
            written = "\n".join(f"| {' | '.join(line)} |" for line in table)
            begin, end = "<!-- private-base: begin -->", "<!-- private-base: end -->"
            DOCS.write_text(put(DOCS.read_text("utf-8"), begin, end, written), "utf-8")


if __name__ == "__main__":
    main()
