"""What a mark costs its owner, in what a trace still finds it, and what takes it off.

    python benchmarks/mark_power.py --suite decoder encoder --write    # hours, most of it training
    python benchmarks/mark_power.py --suite encoder --part merges copies

A suite's first expert is marked and its second is the peer. Suspects are made of the marked copy as
a thief would make them, and each is traced as one would trace a public file. Parts:

    strengths  accuracy of the copy, and what is found in 4 bits, for several strengths
    merges     every merge method, weights down to 0.02, up to eight models, bits, ranks, pruning
    copies     what licensees make of their copies together: means, medians, differences
    removal    what a thief does who knows all but the key, with what it costs him in accuracy
    training   further training at three rates
    adapters   the experts' task vectors as adapters of rank 16, the owner's marked, merged
    nulls      siblings, the unmarked expert, marks of keys that nobody has

The key is fixed, so the draw of the signs is one. Everything drawn has seed 0.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import unmergeable
from unmergeable.architectures.layout import Layout
from unmergeable.bench.field.suite import Suite
from unmergeable.bench.field.suites import SUITES
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.defences.mark import STRENGTH, is_marked
from unmergeable.evaluation.task import Task
from unmergeable.keys.key import Key
from unmergeable.merging.mergekit_bridge import merge_state_dicts
from unmergeable.merging.method import Ingredients
from unmergeable.merging.methods import methods
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once
from unmergeable.models.weights import Weights
from unmergeable.tracing.task_vectors import task_vectors
from unmergeable.training.experts import Recipe, fine_tune

DOCS = Path(__file__).parents[1] / "docs" / "guide" / "trace.md"
KEY, THIEF = Key(bytes(range(32))), Key(bytes(32))
STRENGTHS = (0.02, 0.05, 0.1, 0.2)
WEIGHTS = (0.5, 0.3, 0.1, 0.05, 0.02)
PEOPLE = [f"licensee {number}" for number in range(1, 9)]
BLOCK = 64  # numbers that share a scale where they are rounded
SIBLINGS, KEYS = 60, 1000  # of the nulls
RATES = (0.1, 1.0, 10.0)  # times the expert's own
RANK = 16  # of adapters
HEAD = (
    "| suspect | accuracy | z | log10 of p, at most | weight (95 %) | found |",
    "| --- | --- | --- | --- | --- | --- |",
)
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One suspect.

    Attributes:
        name: as the table has it.
        make: its weights, or a folder.
        look: whose marks are looked for.
        inside: whose marks are there.
        scored: whether its accuracy on the owner's task is measured.
    """

    name: str
    make: Callable[[], State | Path]
    look: Sequence[str] = ("",)
    inside: Sequence[str] = ("",)
    scored: bool = False


def main() -> None:
    """Prints one table for each suite and part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=["decoder", "encoder"])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    torch.manual_seed(0)
    for suite in options.suite:
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench.of(SUITES[suite], Path(scratch))
            for part in options.part:
                lines = [f"*{bench.title}*", "", *PARTS[part](bench)]
                if options.write:
                    begin, end = (f"<!-- {part} {suite}: {w} -->" for w in ("begin", "end"))
                    page = put(DOCS.read_text("utf-8"), begin, end, "\n".join(lines))
                    DOCS.write_text(page, "utf-8")


class Bench:
    """A suite's base, its two experts, and the owner's marked copies."""

    def __init__(self, suite: Suite, place: Path) -> None:
        self.suite, self.place = suite, place
        self.base = suite.base(None)
        self.task, self.owner = suite[suite.pair[0]].trained(self.base)
        self.other, self.peer = suite[suite.pair[1]].trained(self.base)
        self.runner = ModelRunner.of(self.base)
        self.exam = self.task.exam(self.runner, self.task.test)
        self.states = {
            name: _floats(folder)
            for name, folder in (("base", self.base), ("owner", self.owner), ("peer", self.peer))
        }
        self.copies: dict[str, Path] = {}

    @classmethod
    def of(cls, suite: Suite, place: Path) -> Bench:
        """Trains what is missing, and marks the owner's expert."""
        bench = cls(suite, place)
        bench.states["marked"] = _floats(bench.copy(""))
        return bench

    @property
    def title(self) -> str:
        """What is measured on."""
        return (
            f"{self.suite.title}; the owner's task {self.suite.pair[0]} "
            f"({len(self.task.test)} test items), the peer's {self.suite.pair[1]}; strength "
            f"{STRENGTH:g}, and {self.score(self.states['owner'])} correct before the mark."
        )

    def copy(self, licensee: str, strength: float = STRENGTH) -> Path:
        """The copy of a licensee, marked once."""
        name = f"{licensee or 'all'} {strength:g}"
        if name not in self.copies:
            self.copies[name] = self.place / name
            settings = {"strength": strength, **({"licensee": licensee} if licensee else {})}
            unmergeable.protect(
                self.owner, self.copies[name], KEY, defence="mark", settings=settings,
                base=self.base,
            )  # fmt: skip
        return self.copies[name]

    def score(self, state: Mapping[str, torch.Tensor]) -> str:
        """Accuracy on the owner's test items."""
        self.runner.load_state(state)
        return f"{self.exam().accuracy:.1%}"

    def table(self, cases: Sequence[Case], original: Path | None = None) -> Iterator[str]:
        """One row for each case, printed as it comes."""
        for line in HEAD:
            yield _said(line)
        for case in cases:
            made = case.make()
            report = self.trace(made, case.look, original=original)
            state = made if not case.scored or not isinstance(made, Path) else _floats(made)
            accuracy = self.score(state) if case.scored and isinstance(state, dict) else ""
            yield _said(_row(case, report, accuracy))

    def trace(
        self,
        made: State | Path,
        look: Sequence[str],
        strength: float = STRENGTH,
        original: Path | None = None,
    ) -> unmergeable.TraceReport:
        """Traces weights, or a folder."""
        if not isinstance(made, Path):
            folder = self.place / "suspect"
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_bytes((self.base / "config.json").read_bytes())
            tensors = {name: tensor.contiguous() for name, tensor in made.items()}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            made = folder
        return unmergeable.trace(
            made, base=self.base, original=original or self.owner, key=KEY, licensees=look,
            strength=strength,
        )  # fmt: skip

    def mixed(self, share: float, other: str = "marked") -> State:
        """The peer's expert and a copy, with weights that add up to one."""
        base, one, peer = self.states["base"], self.states[other], self.states["peer"]
        return _each(
            base,
            lambda n: base[n] + share * (one[n] - base[n]) + (1 - share) * (peer[n] - base[n]),
        )

    def trained(self, start: Path, task: Task, steps: int, times: float = 1.0) -> Path:
        """A model trained further, under its task's head, at a multiple of its expert's rate."""
        how, out = self.suite[task.name].recipe, self.place / "trained"
        out.mkdir(exist_ok=True)
        fine_tune(start, task, Recipe(steps, how.batch, times * how.rate, how.decay), out)
        return out

    def moved(self, change: Callable[[torch.Tensor], torch.Tensor], start: str = "marked") -> State:
        """The base and a changed task vector."""
        base, one = self.states["base"], self.states[start]
        return _each(base, lambda n: base[n] + change(one[n] - base[n]))


def strengths(bench: Bench) -> Iterator[str]:
    """Accuracy and power for each strength."""
    yield _said(
        "| strength | accuracy | z at weight 0.05 | z at 0.5 in 4 bits | z at 0.3 in 4 bits |"
    )
    yield _said("| --- | --- | --- | --- | --- |")
    own = bench.states["marked"]
    for strength in STRENGTHS:
        bench.states["marked"] = _floats(bench.copy("", strength))
        made = (bench.mixed(0.05), _in_bits(bench.mixed(0.5), 4), _in_bits(bench.mixed(0.3), 4))
        found = [f"{bench.trace(one, [''], strength).traces[0].z:.1f}" for one in made]
        cells = [f"{strength:g}", bench.score(bench.states["marked"]), *found]
        yield _said(f"| {' | '.join(cells)} |")
    bench.states["marked"] = own


def merges(bench: Bench) -> Iterator[str]:
    """Suspects made of one copy by merging and rounding."""
    base, peer, marked = (bench.states[name] for name in ("base", "peer", "marked"))
    cases = [Case("the copy itself", lambda: marked, scored=True)]
    cases += [Case(f"average, weight {w:g}", partial(bench.mixed, w)) for w in WEIGHTS]

    def crowd(models: int) -> State:
        """The mean of a copy, the peer, and siblings that are the peer's kin."""
        others = [peer, *(_sibling(base, peer, seed) for seed in range(models - 2))]
        task = _each(base, lambda n: sum((one[n] - base[n] for one in others), marked[n] - base[n]))
        return _each(base, lambda n: base[n] + task[n] / models)

    cases += [Case(f"average of {n} models", partial(crowd, n)) for n in (4, 8)]
    for method, options in MERGEKIT.items():
        cases.append(Case(method, partial(_merged, method, options, base, [marked, peer])))
    layout = Layout.of_folder(open_folder(bench.base))
    for name in OWN:
        cases.append(Case(name, partial(_own, name, layout, base, [marked, peer])))
    half, less = partial(bench.mixed, 0.5), partial(bench.mixed, 0.3)
    cases.append(Case("weight 0.5 in bfloat16", lambda: _each(base, lambda n: _short(half()[n]))))
    for share, make in (("0.5", half), ("0.3", less)):
        for bits in (8, 4, 3):
            name = f"weight {share} in {bits} bits"
            cases.append(Case(name, lambda make=make, bits=bits: _in_bits(make(), bits)))
    for rank in (64, 16, 8):
        change = partial(_low_rank, rank=rank)
        cases.append(Case(f"task vector of rank {rank}", partial(bench.moved, change), scored=True))
    for share in (0.5, 0.8):
        change = partial(_pruned, share=share)
        name = f"task vector without its smallest {share:.0%}"
        cases.append(Case(name, partial(bench.moved, change), scored=True))
    cases.append(
        Case("one magnitude for each tensor", partial(bench.moved, _one_magnitude), scored=True)
    )
    cases.append(Case("a lock of the thief's", partial(_locked, bench, "lossless")))
    cases.append(Case("a general lock of the thief's", partial(_locked, bench, "general")))
    yield from bench.table(cases)


def copies(bench: Bench) -> Iterator[str]:
    """Suspects made of several licensees' copies: all of theirs are to be named, and no other."""
    base, peer = bench.states["base"], bench.states["peer"]

    def together(count: int, how: str) -> State:
        """Streams the copies of a mean; holds those of a median."""
        states = [_floats(bench.copy(name)) for name in PEOPLE[:count]]
        if how == "mean":
            return _each(base, lambda n: torch.stack([one[n] for one in states]).mean(0))
        if how == "median":
            return _each(base, lambda n: torch.stack([one[n] for one in states]).median(0).values)
        if how == "mean, merged with the peer":
            return _each(
                base, lambda n: torch.stack([*(one[n] for one in states), peer[n]]).mean(0)
            )
        if how == "each number from one of them at random":
            return _each(base, lambda n: _picked([one[n] for one in states]))
        first, second = states[:2]  # what their difference shows of the first's mark, taken off
        return _each(base, lambda n: first[n] - (first[n] - second[n]) / 2)

    plans = [(1, "mean")]
    plans += [(count, how) for count in (2, 4, 8) for how in ("mean", "median")]
    plans += [(4, "mean, merged with the peer"), (2, "each number from one of them at random")]
    plans += [(2, "the first without its difference to the second")]
    yield from bench.table([
        Case(
            f"{count} {'copy' if count == 1 else 'copies'}: {how}",
            partial(together, count, how), PEOPLE, PEOPLE[:count], scored=True,
        )
        for count, how in plans
    ])  # fmt: skip


def removal(bench: Bench) -> Iterator[str]:
    """What a thief may try who knows everything but the key."""
    base, marked = bench.states["base"], bench.states["marked"]
    cases = []
    for size in (1.0, 3.0, 10.0):
        noisy = partial(bench.moved, partial(_noisy, size=size))
        cases.append(Case(f"noise of {size:g} times the task vector's size", noisy, scored=True))
    for rank, bits in ((16, 8), (8, 4), (4, 4), (1, 16)):
        low = partial(bench.moved, partial(_low_rank, rank=rank))
        cases.append(
            Case(
                f"task vector of rank {rank}, in {bits} bits",
                lambda low=low, bits=bits: _in_bits(low(), bits), scored=True,
            )
        )  # fmt: skip
    for share in (0.95, 0.99):
        change = partial(_pruned, share=share)
        cases.append(
            Case(f"the largest {1 - share:.0%} of it", partial(bench.moved, change), scored=True)
        )
    for step in (0.5, 2.0, 8.0):
        change = partial(_stepped, step=step)
        name = f"task vector rounded to steps of {step:g} times its size"
        cases.append(Case(name, partial(bench.moved, change), scored=True))
    cases.append(Case("3 bits", lambda: _in_bits(marked, 3), scored=True))
    cases.append(Case("2 bits", lambda: _in_bits(marked, 2), scored=True))
    distilled = partial(_distilled, bench)
    cases.append(Case("the base, trained on the copy's answers", distilled, inside=(), scored=True))
    cases.append(Case("the base", lambda: dict(base), inside=(), scored=True))
    yield from bench.table(cases)


def training(bench: Bench) -> Iterator[str]:
    """The copy, trained further on the peer's data; ten times its rate ruins it in 100 steps."""
    plans = [(bench.other, 100, times) for times in RATES]
    plans += [(bench.other, 1000, times) for times in RATES[:2]]

    def trained(task: Task, steps: int, times: float) -> Path:
        return bench.trained(bench.copy(""), task, steps, times)

    yield from bench.table([
        Case(
            f"{steps} steps on {task.name} at {times:g} times its rate",
            partial(trained, task, steps, times), scored=True,
        )
        for task, steps, times in plans
    ])  # fmt: skip


def adapters(bench: Bench) -> Iterator[str]:
    """The two experts as adapters; suspects are full models that both were merged into."""
    ours, theirs, copy = (bench.place / name for name in ("adapter", "peer adapter", "copy"))
    base, places = bench.states["base"], open_folder(bench.base)
    layout = Layout.of_folder(places)
    names = [n for n, e in places.tensors.items() if is_marked(layout, e)]
    for state, folder in (("owner", ours), ("peer", theirs)):
        tensors = {n: bench.states[state][n] - base[n] for n in names}
        _as_adapter(tensors, folder)
    unmergeable.mark_adapter(ours, copy, KEY, bench.base)
    vectors = {}
    for folder in (ours, theirs, copy):
        reader = task_vectors(folder, places)
        with reader:
            vectors[folder] = {
                n: torch.from_numpy(reader.vector(n, base[n].double().numpy())).float()
                for n in names
            }

    def mixed(share: float, other: Path = copy) -> State:
        one, peer = vectors[other], vectors[theirs]
        return {
            n: base[n] + share * one[n] + (1 - share) * peer[n] if n in one else base[n]
            for n in base
        }

    cases = [
        Case("the marked adapter", lambda: copy),
        Case("merged into the base", partial(mixed, 1.0), scored=True),
        Case("the same without a mark", partial(mixed, 1.0, ours), inside=(), scored=True),
        Case("the peer's adapter", lambda: theirs, inside=()),
    ]
    cases += [Case(f"average, weight {w:g}", partial(mixed, w)) for w in WEIGHTS]
    for share in (1.0, 0.5, 0.1):
        for bits in (8, 4):
            name = f"weight {share:g} in {bits} bits"
            cases.append(Case(name, lambda share=share, bits=bits: _in_bits(mixed(share), bits)))
    yield from bench.table(cases, original=ours)


def nulls(bench: Bench) -> Iterator[str]:
    """Where nothing is to be found: the largest z of each kind."""
    base, owner, peer = (bench.states[name] for name in ("base", "owner", "peer"))
    marked = bench.states["marked"]

    def largest(name: str, suspects: Iterator[tuple[State | Path, Sequence[str]]]) -> str:
        zs = [trace.z for made, look in suspects for trace in bench.trace(made, look).traces]
        return f"| {name} | {len(zs)} | {max(zs):.2f} | {max(0.0, -_log10(max(zs))):.1f} |"

    yield _said("| null | marks looked for | largest z | -log10 of its p, before any correction |")
    yield _said("| --- | --- | --- | --- |")
    kin = ((_sibling(base, peer, 1000 + n), [""]) for n in range(SIBLINGS))
    yield _said(largest(f"{SIBLINGS} siblings of the peer", kin))
    some = [(peer, ["", *PEOPLE]), (owner, ["", *PEOPLE]), (bench.mixed(0.5, "owner"), [""])]
    yield _said(largest("the peer, the unmarked expert, alone and in a merge", iter(some)))
    strangers = [f"nobody {n}" for n in range(KEYS)]
    yield _said(largest("the marked copy, marks that nobody has", iter([(marked, strangers)])))
    unknown = partial(bench.mixed, 0.5)()
    yield _said(largest("a merge of it, marks that nobody has", iter([(unknown, strangers)])))


PARTS: dict[str, Callable[[Bench], Iterator[str]]] = {
    "strengths": strengths, "merges": merges, "copies": copies, "removal": removal,
    "training": training, "adapters": adapters, "nulls": nulls,
}  # fmt: skip
EQUAL = {"weight": [0.5, 0.5]}
MERGEKIT: dict[str, dict[str, Any]] = {
    "ties": {"weight": [1.0, 1.0], "density": [0.5, 0.5], "normalize": True},
    "dare_linear": {**EQUAL, "density": [0.5, 0.5]},
    "dare_ties": {**EQUAL, "density": [0.2, 0.2]},
    "della": {**EQUAL, "density": [0.5, 0.5], "epsilon": [0.2, 0.2]},
    "breadcrumbs": {**EQUAL, "density": [0.5, 0.5], "gamma": [0.01, 0.01]},
    "model_stock": {},
    "sce": {},
    "slerp": {"t": 0.5},
}
OWN = ("tsv", "iso_c", "emr")


def _merged(method: str, options: Mapping[str, Any], base: State, models: list[State]) -> State:
    if method == "slerp":  # of two models, without a base
        return dict(merge_state_dicts(models[1:], method, base=models[0], parameters=options))
    return dict(merge_state_dicts(models, method, base=base, parameters=options))


def _own(name: str, layout: Layout, base: State, models: list[State]) -> State:
    merged = methods()[name](Ingredients(models, base, layout))
    return dict(merged.by_model[0] if merged.by_model else merged.state)


def _distilled(bench: Bench) -> Path:
    """What learns the copy's answers to the owner's training items, and sees no weight of it."""
    task, runner = bench.task, bench.runner
    runner.load_state(bench.states["marked"])
    labels = [item.label for item in task.train]
    batches = task.batches(runner, [item.text for item in task.train], labels)
    with torch.no_grad():
        for batch in batches:
            for row, label in zip(batch.items, task.logits(runner.model, batch), strict=True):
                labels[row] = int(label.argmax())
    items = zip(task.train, labels, strict=True)
    told = replace(task, train=tuple(item._replace(label=label) for item, label in items))
    return bench.trained(bench.base, told, bench.suite[task.name].recipe.steps)


def _locked(bench: Bench, kind: str) -> Path:
    out = bench.place / f"thief {kind}"
    if not out.exists():
        unmergeable.protect(bench.copy(""), out, THIEF, settings={"kind": kind})
    return out


def _row(case: Case, report: unmergeable.TraceReport, accuracy: str) -> str:
    found = {trace.licensee: trace for trace in report.traces}
    shown = [found[name] for name in case.inside] or list(report.traces[:1])
    weakest = min(shown, key=lambda one: one.z)
    named = {one.licensee for one in report.traces if one.found}
    right = "yes" if named == set(case.inside) and named else "no"
    if extra := named - set(case.inside):
        right = f"FALSE CLAIM: {', '.join(sorted(extra))}"
    low, high = weakest.interval
    return (
        f"| {case.name} | {accuracy} | {weakest.z:.1f} | {weakest.log10_p:.0f} | "
        f"{weakest.weight:.3f} ({low:.3f} to {high:.3f}) | {right} |"
    )


def _floats(folder: Path) -> State:
    return {name: tensor.float() for name, tensor in Weights.read(folder).tensors.items()}


def _each(like: State, make: Callable[[str], torch.Tensor]) -> State:
    return {name: make(name) if like[name].is_floating_point() else like[name] for name in like}


def _short(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float()


def _in_bits(state: State, bits: int) -> State:
    """Round to nearest, symmetric, one scale for each block of numbers; vectors stay."""

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.numel() % BLOCK:
            return tensor
        blocks = tensor.reshape(-1, BLOCK)
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        return ((blocks / scale).round() * scale).reshape(tensor.shape)

    return _each(state, lambda name: rounded(state[name]))


def _size(vector: torch.Tensor) -> torch.Tensor:
    return vector.square().mean().sqrt()


def _low_rank(vector: torch.Tensor, rank: int) -> torch.Tensor:
    if vector.ndim != 2 or min(vector.shape) <= rank:
        return vector
    left, values, right = torch.svd_lowrank(vector, rank, niter=4)
    return (left * values) @ right.T


def _as_adapter(vectors: Mapping[str, torch.Tensor], out: Path) -> None:
    """Writes what is left of task vectors in rank 16, as PEFT would; half of the size in A and B.

    Args:
        vectors: by the name of the weight, each stored (out, in).
        out: the folder to make.
    """
    tensors = {}
    for name, vector in vectors.items():
        left, values, right = torch.svd_lowrank(vector, RANK, niter=4)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = (values.sqrt()[:, None] * right.T).contiguous()
        tensors[f"{module}.lora_B.weight"] = (left * values.sqrt()).contiguous()
    out.mkdir()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    layers = sorted({name.split(".")[-2] for name in vectors})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": layers}
    (out / "adapter_config.json").write_text(json.dumps(config))


def _pruned(vector: torch.Tensor, share: float) -> torch.Tensor:
    least = vector.abs().flatten().kthvalue(max(1, int(share * vector.numel()))).values
    return torch.where(vector.abs() > least, vector, 0)


def _one_magnitude(vector: torch.Tensor) -> torch.Tensor:
    return vector.sign() * vector.abs().mean()


def _noisy(vector: torch.Tensor, size: float) -> torch.Tensor:
    return vector + size * _size(vector) * torch.randn_like(vector)


def _stepped(vector: torch.Tensor, step: float) -> torch.Tensor:
    unit = (step * _size(vector)).clamp(min=1e-30)
    return (vector / unit).round() * unit


def _picked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    choice = torch.randint(len(tensors), tensors[0].shape)
    return torch.stack(list(tensors)).gather(0, choice[None])[0]


def _sibling(base: State, peer: State, seed: int) -> State:
    """A model as far from the base as the peer in each tensor, and half in its direction."""
    draw = torch.Generator().manual_seed(seed)

    def made(name: str) -> torch.Tensor:
        vector = peer[name] - base[name]
        noise = torch.randn(vector.shape, generator=draw) * _size(vector)
        return base[name] + (vector + noise) / 2**0.5

    return _each(base, made)


def _log10(z: float) -> float:
    return -(max(z, 0.0) ** 2) / 2 / 2.302585


def _said(line: str) -> str:
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
