"""Every defence on one expert: what it costs its owner, and what it leaves to a thief.

    python benchmarks/compare_defences.py                         # all defences on all three models
    python benchmarks/compare_defences.py --case encoder --only lock trap2
    python benchmarks/compare_defences.py --write                 # and put the tables into the docs

For each real model: the owner's expert is protected, or trained anew under a training-time defence
with the same data and steps; then audited with the preset "compare" (linear, task arithmetic and
TIES with swept coefficients, as released and after alignment to the base), one peer, one seed. Each
row is kept, so that a run that was stopped goes on where it was; `--again` measures anew.

A model whose architecture a defence changed is refused by every merge tool. Its own accuracy is
measured with its own code; what stands under "aligned" is the audit of what `align` made of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import unmergeable
from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.audit.audit import audit
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import UnmergeableError
from unmergeable.running.host import Host
from unmergeable.running.process import restart_once
from unmergeable.tasks.task import Task
from unmergeable.tasks.task_file import TaskFile
from unmergeable.training.course import Course
from unmergeable.training.data import Items
from unmergeable.training.experts import HeadRecipe, expert
from unmergeable.training.probe import headed
from unmergeable.training.run import train
from unmergeable.zoo import cache as store

DOCS = Path(__file__).parents[1] / "docs" / "defences.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TEST, VALIDATION = 400, 100
HELD = 64  # training items that a training-time defence validates on


@dataclass(frozen=True)
class Row:
    """One way to protect an expert.

    Attributes:
        name: as in the table.
        trained: the training-time defence, if any.
        chain: the post-hoc defences, if any.
        settings: of either.
    """

    name: str
    trained: str = ""
    chain: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("no defence"),
    Row("trained again, no defence", trained="none"),
    Row("lock", chain="lock"),
    Row("lock, general", chain="lock", settings={"kind": "general"}),
    Row("MergeLock-style", chain="mergelock"),
    Row("PaRaMS, diagonal", chain="params"),
    Row("PaRaMS, symmetric", chain="params", settings={"variant": "symmetric"}),
    Row("PaRaMS, nonsymmetric", chain="params", settings={"variant": "nonsymmetric"}),
    Row("PaRaMS as published", chain="params", settings={"as_published": "true"}),
    Row("PaRaMS + MergeLock", chain="params+mergelock"),
    Row("MergeBarrier-style", chain="mergebarrier"),
    Row("MergeGuard-style, reset", trained="mergeguard"),
    Row("MergeGuard-style, flip", trained="mergeguard", settings={"reading": "flip"}),
    Row("Trap²", trained="trap2"),
    Row("ARF", trained="arf"),
    Row("ARF + lock", trained="arf", chain="lock"),
)


@dataclass(frozen=True)
class Case:
    """A real model with an expert to protect and a peer to merge it with.

    Attributes:
        name: as `--case` names it.
        title: for the table.
        base: the public base's folder.
        tasks: the owner's and the peer's.
        experts: theirs.
        items: of the owner's train split, for training it again.
        head: the frozen head of the owner's task; None where label words are scored.
        course: how the owner's expert was trained.
        calibration: texts or images, for defences that look at activations.
    """

    name: str
    title: str
    base: Path
    tasks: tuple[Task, Task]
    experts: tuple[Path, Path]
    items: Items
    head: Any
    course: Course
    calibration: Sequence[str]


def main() -> None:
    """Measures what is asked for, and prints one table a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these")
    parser.add_argument("--again", action="store_true", help="measure rows that are kept, too")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    tables = []
    for name in options.case:
        case = CASES[name]()
        found = {}
        for row in ROWS:
            wanted = not options.only or any(part in row.name for part in options.only)
            place = store.root() / "compare" / case.name / f"{row.name}.json"
            if wanted and (options.again or not place.exists()):
                print(f"{case.title}: {row.name} ...", flush=True)
                store.write_json(place, measured(case, row))
            if place.exists():
                found[row.name] = json.loads(place.read_text("utf-8"))
        tables.append(table(case, found))
        print(tables[-1], flush=True)
    if options.write:
        text = DOCS.read_text("utf-8")
        head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        DOCS.write_text(head + "\n\n" + "\n\n".join(tables) + "\n\n" + tail, "utf-8")


def measured(case: Case, row: Row) -> dict[str, Any]:
    """One row: what the owner pays, and what the audit found; or why there is nothing to say."""
    with tempfile.TemporaryDirectory(prefix="unmergeable-") as scratch:
        try:
            folder, seconds, notes = protected(case, row, Path(scratch))
        except UnmergeableError as error:
            return {"refused": str(error)}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found = {"seconds": seconds, "bytes": size, "notes": notes}
        try:
            return found | audited(case, folder)
        except UnmergeableError as error:
            return found | {"refused": str(error)}


def protected(case: Case, row: Row, scratch: Path) -> tuple[Path, float, dict[str, Any]]:
    """The protected folder, the seconds it took, and what the defence measured."""
    folder, notes = case.experts[0], {}
    clock = time.perf_counter()
    if row.trained:
        report = train(
            scratch / "trained",
            case.base,
            replace(case.items, rows=case.items.rows[:-HELD]),
            defence=row.trained,
            settings={} if row.chain else row.settings,
            head=case.head,
            course=replace(case.course, every=case.course.steps),  # no checkpoints on the way
            validation=replace(case.items, rows=case.items.rows[-HELD:]),
        )
        folder, notes = report.out, dict(report.document["measured"])
    if row.chain:
        key = unmergeable.Key.generate()
        done = unmergeable.protect(
            folder,
            scratch / "protected",
            key,
            defence=row.chain,
            settings=row.settings,
            base=case.base,
            data=case.calibration,
        )
        folder = done.out
        for link in done.manifest.chain:
            notes |= link.measured
    return folder, time.perf_counter() - clock, notes


def audited(case: Case, folder: Path) -> dict[str, Any]:
    """Own accuracy and V: open, as released, and aligned."""
    if is_rebuilt(open_folder(folder)):
        return unfolded(case, folder)
    cut = [
        replace(t, train=(), validation=t.validation[:VALIDATION], test=t.test[:TEST])
        for t in case.tasks
    ]
    document = audit(
        folder,
        base=case.base,
        original=case.experts[0],
        peers=case.experts[1:],
        tasks=TaskFile((0, 1), tuple(cut), {}),
        preset="compare",
    )
    scores = document["tasks"][0]["scores"]
    routed = {method["name"] for method in document["methods"] if method["routed"]}

    def best(subject: str, *attacks: str) -> dict[str, float] | None:
        values = [
            cell["value"]
            for cell in document["cells"]
            if cell["subject"] == subject
            and cell["value"]
            and cell["method"] not in routed
            and (not attacks or cell["attack"] in attacks)
        ]
        return max(values, key=lambda value: float(value["value"]), default=None)

    return {
        "base": scores["base"]["accuracy"],
        "expert": scores["expert"]["accuracy"],
        "own": scores["protected"]["accuracy"],
        "items": len(cut[0].test),
        "open": best("open"),
        "released": best("protected", "none"),
        "aligned": best("protected", "align"),
        "verdict": document["verdict"]["sentence"],
    }


def unfolded(case: Case, folder: Path) -> dict[str, Any]:
    """The same of a model that no merge tool takes: audited after `align` made it a stock model."""
    task = case.tasks[0]
    host = Host.of(folder)
    own = task.exam(host, task.test[:TEST])().accuracy
    with tempfile.TemporaryDirectory(prefix="unmergeable-") as scratch:
        report = unmergeable.align(folder, Path(scratch) / "stock", case.base)
        found = audited(case, report.out)
    return {**found, "own": own, "released": None, "aligned": found["released"]}


def table(case: Case, found: dict[str, dict[str, Any]]) -> str:
    """The rows of one model as Markdown."""
    done = [row for row in found.values() if "own" in row]
    lines = [f"### {case.title}", ""]
    if done:
        first = done[0]
        lines += [
            f"{case.tasks[0].title} (owner) and {case.tasks[1].title} (peer); {first['items']} "
            f"test items a task; the base scores {first['base']:.1%}, the expert "
            f"{first['expert']:.1%}.",
            "",
        ]
    lines += [
        "| defence | own accuracy | V as released | V aligned | owner's seconds | size |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    reasons = []
    whole = sum(f.stat().st_size for f in case.experts[0].rglob("*") if f.is_file())
    for name, row in found.items():
        cost = f"{row['seconds']:.1f}" if "seconds" in row else "-"
        size = f"{row['bytes'] / whole:.2f}" if "bytes" in row else "-"
        if "own" in row:
            change = 100 * (row["own"] - row["expert"])
            cells = [f"{row['own']:.1%} ({change:+.1f})"]
            cells += [_value(row[part]) for part in ("released", "aligned")]
        else:
            reasons.append(f"- {name}: {row['refused']}")
            cells = ["see below", "-", "-"]
        if name == "no defence":
            cost = "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {cost} | {size} |")
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _value(value: dict[str, float] | None) -> str:
    if value is None:
        return "refused by merge tools"
    return f"{value['value']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def decoder() -> Case:
    """SmolLM2, kinds of nouns for the owner, spam for the peer: the demonstration's experts."""
    from unmergeable.demo.run import OWNER, PEER
    from unmergeable.tasks.glosses import glosses
    from unmergeable.tasks.spam import spam
    from unmergeable.zoo.smollm2 import NAME, smollm2

    base, tasks = smollm2(), (glosses(), spam())
    experts = [expert(base, task, how) for task, how in zip(tasks, (OWNER, PEER), strict=True)]
    course = Course(steps=OWNER.steps, batch=OWNER.batch, rate=OWNER.rate, end=False)
    own = tasks[0]
    texts = [own.prompt(item.text) for item in own.train[:128]]
    items = Items.of_words(own, own.train)
    return Case("decoder", NAME, base, tasks, (experts[0], experts[1]), items, None, course, texts)


def encoder() -> Case:
    """MiniLM, kinds of nouns for the owner, kinds of verbs for the peer."""
    from unmergeable.tasks.encoder_tasks import nouns, verbs
    from unmergeable.zoo.minilm import NAME, minilm

    recipes = HeadRecipe(), HeadRecipe(steps=120)
    return headed_case("encoder", NAME, minilm(), (nouns(), verbs()), recipes, "label")


def vision() -> Case:
    """The DINOv2 backbone, Greek letters for the owner, Cyrillic ones for the peer.

    At the default rate these experts do not merge at all; at this one they do, on validation items.
    """
    from unmergeable.tasks.letters import letters
    from unmergeable.zoo.dinov2 import NAME, dinov2

    recipe = HeadRecipe(steps=80, rate=3e-5)
    tasks = letters("greek"), letters("cyrillic")
    return headed_case("vision", NAME, dinov2(), tasks, (recipe, recipe), "image")


def headed_case(
    name: str,
    title: str,
    base: Path,
    tasks: tuple[Any, Any],
    recipes: tuple[HeadRecipe, HeadRecipe],
    kind: Any,
) -> Case:
    """A model whose tasks have frozen linear heads, which belong to the task and never merge."""
    found = [expert(base, task, how) for task, how in zip(tasks, recipes, strict=True)]
    own, peer = (headed(task, folder) for task, folder in zip(tasks, found, strict=True))
    rows = tuple((item.text, item.label) for item in own.train)
    how = recipes[0]
    course = Course(
        steps=how.steps,
        batch=how.batch,
        rate=how.rate,
        tokens=getattr(own, "tokens", Course.tokens),
        size=getattr(own, "size", None),
    )
    data = [item.text for item in own.train[:128]]
    items = Items(kind, rows)
    return Case(name, title, base, (own, peer), (found[0], found[1]), items, own.head, course, data)


CASES: dict[str, Callable[[], Case]] = {"decoder": decoder, "encoder": encoder, "vision": vision}


if __name__ == "__main__":
    main()
