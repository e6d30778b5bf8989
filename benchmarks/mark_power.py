"""What the mark costs its owner, and in what a trace still finds it, on the demonstration's model.

    python benchmarks/mark_power.py                        # minutes, once the experts are trained
    python benchmarks/mark_power.py --strength 0.05 --write

The owner's expert is marked at each strength. For each: accuracy on its test items; then suspects
made of the marked copy and the peer's expert, each traced with the key as a thief's public file
would be. Nulls: the peer, the unmarked expert in a merge, and other licensees' marks on the marked
copy itself.
One draw of the signs each (the key is fixed).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

import unmergeable
from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.demo.run import OWNER, PEER
from unmergeable.bench.zoo.smollm2 import smollm2
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.keys.key import Key
from unmergeable.merging.mergekit_bridge import merge_state_dicts
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once
from unmergeable.models.weights import Weights
from unmergeable.training.experts import expert

DOCS = Path(__file__).parents[1] / "docs" / "guide" / "trace.md"
BEGIN, END = "<!-- power: begin -->", "<!-- power: end -->"
KEY = Key(bytes(range(32)))
OTHERS = 20  # licensees for whom no copy was made
BLOCK = 64  # numbers that share a scale in 8 and 4 bits
State = dict[str, torch.Tensor]


def main() -> None:
    """Prints one table for each strength."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strength", type=float, nargs="+", default=[0.05])
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    base, tasks = smollm2(), (glosses(), spam())
    owner, peer = expert(base, tasks[0], OWNER), expert(base, tasks[1], PEER)
    lines: list[str] = []
    for strength in options.strength:
        with tempfile.TemporaryDirectory() as scratch:
            for line in Table(base, owner, peer, strength, Path(scratch)).lines(tasks[0]):
                print(line, flush=True)
                lines.append(line)
    if options.write:
        DOCS.write_text(put(DOCS.read_text("utf-8"), BEGIN, END, "\n".join(lines)), "utf-8")


class Table:
    """Measures one strength of the mark."""

    def __init__(self, base: Path, owner: Path, peer: Path, strength: float, place: Path) -> None:
        self.base, self.owner, self.strength, self.place = base, owner, strength, place
        self.marked = place / "marked"
        unmergeable.protect(
            owner, self.marked, KEY, defence="mark", settings={"strength": strength}, base=base
        )
        read = (base, owner, peer, self.marked)
        self.states = [dict(Weights.read(folder).tensors) for folder in read]

    def lines(self, task: object) -> Iterator[str]:
        """The table, as Markdown."""
        runner = ModelRunner.of(self.base)
        before, after = (self._score(runner, task, state) for state in self.states[1::2])
        yield f"Strength {self.strength:g}: accuracy {before} before, {after} after."
        yield ""
        yield "| suspect | z | log10 of p, at most | weight (95 %) | found |"
        yield "| --- | --- | --- | --- | --- |"
        for name, state in self.suspects():
            report = self._trace(state)
            found, (low, high) = report.traces[0], report.traces[0].interval
            yield (
                f"| {name} | {found.z:.1f} | {found.log10_p:.0f} | {found.weight:.3f} "
                f"({low:.3f} to {high:.3f}) | {'yes' if report.found else 'no'} |"
            )
        others = self._trace(self.states[3], [f"nobody {n}" for n in range(OTHERS)])
        yield (
            f"| null: the marked copy, {OTHERS} licensees who have none | at most "
            f"{others.traces[0].z:.1f} | {others.traces[0].log10_p:.0f} | - | "
            f"{'yes' if others.found else 'no'} |"
        )

    def suspects(self) -> Iterator[tuple[str, State]]:
        """What is traced, made one at a time."""
        base, open_one, peer, marked = self.states

        def mixed(share: float, other: State = marked) -> State:
            return _each(base, lambda n: base[n] + share * (other[n] - base[n])
                         + (1 - share) * (peer[n] - base[n]))  # fmt: skip

        yield "the copy itself", marked
        for share in (0.5, 0.3, 0.1, 0.05, 0.02):
            yield f"merged with the peer, weight {share:g}", mixed(share)
        for method, options in (
            ("ties", {"weight": [1.0, 1.0], "density": [0.5, 0.5], "normalize": True}),
            ("dare_linear", {"weight": [0.5, 0.5], "density": [0.5, 0.5]}),
        ):
            merged = merge_state_dicts([marked, peer], method, base=base, parameters=options)
            yield f"{method}, both at one half", dict(merged)
        half = mixed(0.5)
        yield "weight 0.5, in bfloat16", _each(base, lambda n: half[n].bfloat16().float())
        for bits in (8, 4):
            yield (
                f"weight 0.5, in {bits} bits",
                _each(base, lambda n, bits=bits: _rounded(half[n], bits)),
            )
        less = mixed(0.3)
        yield "weight 0.3, in 4 bits", _each(base, lambda n: _rounded(less[n], 4))
        for rank in (64, 16):
            yield (
                f"the copy's task vector, rank {rank}",
                _each(base, lambda n, rank=rank: base[n] + _low_rank(marked[n] - base[n], rank)),
            )
        yield "null: the unmarked expert, weight 0.5", mixed(0.5, open_one)
        yield "null: the peer", peer

    def _trace(
        self, state: Mapping[str, torch.Tensor], licensees: Sequence[str] = ("",)
    ) -> unmergeable.TraceReport:
        folder = self.place / "suspect"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes((self.base / "config.json").read_bytes())
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return unmergeable.trace(
            folder,
            base=self.base,
            original=self.owner,
            key=KEY,
            licensees=licensees,
            strength=self.strength,
        )

    def _score(self, runner: ModelRunner, task: object, state: State) -> str:
        runner.load_state(state)
        score = replace(task).exam(runner, task.test)()  # type: ignore[attr-defined, type-var]
        low, high = score.interval
        return f"{score.accuracy:.1%} ({low:.1%} to {high:.1%})"


def _each(like: State, make: Callable[[str], torch.Tensor]) -> State:
    return {name: make(name) if like[name].is_floating_point() else like[name] for name in like}


def _rounded(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to nearest, symmetric, one scale for each block of numbers; vectors stay."""
    if tensor.ndim < 2 or tensor.numel() % BLOCK:
        return tensor
    blocks = tensor.reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return ((blocks / scale).round() * scale).reshape(tensor.shape)


def _low_rank(vector: torch.Tensor, rank: int) -> torch.Tensor:
    if vector.ndim != 2 or min(vector.shape) <= rank:
        return vector
    left, values, right = torch.svd_lowrank(vector, rank, niter=4)
    return (left * values) @ right.T


if __name__ == "__main__":
    main()
