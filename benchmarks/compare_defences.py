"""Every defence on one expert: what it costs its owner, and what it leaves to a thief.

    python benchmarks/compare_defences.py                         # all defences on all three models
    python benchmarks/compare_defences.py --case encoder --only lock Trap²
    python benchmarks/compare_defences.py --write                 # and put the tables into the docs
    python benchmarks/compare_defences.py --write --only "no defence"    # the rows that are kept

The field benchmark's little sister: its suites, rows and protected models, audited with the preset
"compare" (linear, task arithmetic and TIES with swept coefficients, as released and after alignment
to the base), one peer, one seed. The decoder's experts are those of the demonstration. Each row is
kept, so that a run that was stopped goes on where it was; `--again` measures anew.

A model whose architecture a defence changed is refused by every merge tool. Its own accuracy is
measured with its own code; what stands under "aligned" is the audit of what `align` made of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import unmergeable
from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.auditing.audit import audit
from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.demo.run import OWNER, PEER
from unmergeable.bench.field.defences import DEFENCES, FieldDefence
from unmergeable.bench.field.defended import defended
from unmergeable.bench.field.prepared_suite import Scene, open_scene
from unmergeable.bench.field.suite import Suite, TaskRecipe
from unmergeable.bench.field.suites import SUITES
from unmergeable.bench.zoo import smollm2
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.errors import UnmergeableError
from unmergeable.evaluation import store
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once

DOCS = Path(__file__).parents[1] / "docs" / "defences.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TEST, VALIDATION = 400, 100
KEPT = ("released", "aligned")
DECODER = Suite(
    name="decoder",
    title=smollm2.NAME,
    base=smollm2.smollm2,
    tasks=(TaskRecipe("glosses", glosses, OWNER), TaskRecipe("spam", spam, PEER)),
    pair=("glosses", "spam"),
    crowd=("glosses", "spam"),
)
CASES = {**SUITES, DECODER.name: DECODER}


def main() -> None:
    """Measures what is asked for, and prints one table a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--only", nargs="+", help="rows of these titles, or whose titles contain one"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are kept, too")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    chosen = titles(options.only)
    tables = []
    for name in options.case:
        scene = open_scene(CASES[name])
        found = {}
        for row in DEFENCES:
            wanted = row.title in chosen
            case = "-".join([name, *scene.suite.pair])  # another pair has other rows
            place = store.root() / "compare" / case / f"{row.title}.json"
            if wanted and (options.again or not place.exists()):
                print(f"{scene.suite.title}: {row.title} ...", flush=True)
                store.write_json(place, measured(scene, row))
            if place.exists():
                found[row.title] = json.loads(place.read_text("utf-8"))
        tables.append(table(scene, found))
        print(tables[-1], flush=True)
    if options.write:
        content = "\n" + "\n\n".join(tables) + "\n"
        DOCS.write_text(put(DOCS.read_text("utf-8"), BEGIN, END, content), "utf-8")


def titles(parts: list[str] | None) -> set[str]:
    """The rows that are asked for: those of a title, or else those whose titles contain it."""
    known = [row.title for row in DEFENCES]
    if not parts:
        return set(known)
    return {t for part in parts for t in ([part] if part in known else known) if part in t}


def measured(scene: Scene, row: FieldDefence) -> dict[str, Any]:
    """One row: what the owner pays, and what the audit found; or why there is nothing to say."""
    made = defended(scene, row, 0)
    if made.folder is None:
        return {"refused": made.refused}
    about = {"seconds": made.seconds, "busy": made.busy, "bytes": made.size}
    found = about | {"notes": dict(made.notes)}
    try:
        return found | audited(scene, made.folder)
    except UnmergeableError as error:
        return found | {"refused": str(error)}


def audited(scene: Scene, folder: Path) -> dict[str, Any]:
    """Own accuracy and V: open, as released, and aligned."""
    if is_rebuilt(open_folder(folder)):
        return unfolded(scene, folder)
    pair = scene.suite.pair
    cut = [
        replace(t, train=(), validation=t.validation[:VALIDATION], test=t.test[:TEST])
        for t in (scene.tasks[name] for name in pair)
    ]
    document = audit(
        folder,
        base=scene.base,
        original=scene.experts[pair[0]],
        peers=[scene.experts[pair[1]]],
        tasks=TaskFile((0, 1), tuple(cut), {}),
        preset="compare",
    ).to_dict()
    scores = document["tasks"][0]["scores"]
    routed = {method["name"] for method in document["methods"] if method["routed"]}

    def best(subject: str, *attacks: str) -> dict[str, Any] | None:
        values = [
            cell["value"]
            | {
                "method": cell["method"],
                "accuracy": [s["accuracy"] for s in cell["scores"].values()],
            }
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


def unfolded(scene: Scene, folder: Path) -> dict[str, Any]:
    """The same of a model that no merge tool takes: audited after `align` made it a stock model."""
    runner = ModelRunner.of(folder)
    own = scene.owner.exam(runner, scene.owner.test[:TEST])().accuracy
    with tempfile.TemporaryDirectory(prefix="unmergeable-") as scratch:
        report = unmergeable.align(folder, Path(scratch) / "stock", scene.base)
        found = audited(scene, report.out)
    return {**found, "own": own, "released": None, "aligned": found["released"]}


def table(scene: Scene, found: dict[str, dict[str, Any]]) -> str:
    """The rows of one model as Markdown."""
    done = [row for row in found.values() if "own" in row]
    tasks = [scene.tasks[name] for name in scene.suite.pair]
    lines = [f"### {scene.suite.title}", ""]
    if done:
        first = done[0]
        lines += [
            f"{tasks[0].title} (owner) and {tasks[1].title} (peer); {first['items']} "
            f"test items a task; the base scores {first['base']:.1%}, the expert "
            f"{first['expert']:.1%}.",
            "",
        ]
    lines += [
        "| defence | own accuracy | V as released; both accuracies | V aligned; both accuracies | "
        "owner's seconds | size |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    reasons = []
    whole = sum(
        f.stat().st_size for f in scene.experts[scene.suite.pair[0]].rglob("*") if f.is_file()
    )
    for name, row in found.items():
        cost = f"{_bound(row)}{row['seconds']:.1f}" if "seconds" in row else "-"
        size = f"{row['bytes'] / whole:.2f}" if "bytes" in row else "-"
        if "own" in row:
            change = 100 * (row["own"] - row["expert"])
            cells = [f"{row['own']:.1%} ({change:+.1f})"]
            cells += [_value(row[part]) for part in KEPT]
        else:
            reasons.append(f"- {name}: {row['refused']}")
            cells = ["see below", "-", "-"]
        if name == "no defence":
            cost = "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {cost} | {size} |")
    if any(row[part] and "accuracy" not in row[part] for row in done for part in KEPT):
        lines += ["", "Where the two accuracies are missing, they were not kept at the time."]
    if missing := [row.title for row in DEFENCES if row.title not in found]:
        lines += ["", f"Not run on this model: {'; '.join(missing)}."]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _bound(row: dict[str, Any]) -> str:
    """Marks seconds of a machine that did other work besides, or that nobody looked at."""
    return "" if row.get("busy", 1.0) < 1 else "≤ "


def _value(value: dict[str, Any] | None) -> str:
    if value is None:
        return "refused by merge tools"
    text = f"{value['value']:.2f} ({value['low']:.2f}-{value['high']:.2f})"
    if "accuracy" in value:
        text += "; " + " and ".join(f"{100 * part:.0f}" for part in value["accuracy"]) + "%"
    return text


if __name__ == "__main__":
    main()
