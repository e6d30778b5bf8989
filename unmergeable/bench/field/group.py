"""The audit's grid on a group of models: what each attack of the field starts from.

One process holds one group at a time; opening it loads the models and scores them, or looks the
scores up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from unmergeable.attacks.attack import After, Attack
from unmergeable.attacks.fine_tune import REPAIR, tune
from unmergeable.attacks.ladder import attack_named, guarded
from unmergeable.auditing.audit_inputs import prepare
from unmergeable.auditing.cells import FULL, Cell, Measurement
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.grid import Grid
from unmergeable.auditing.plan import without_data
from unmergeable.auditing.planned_steps import PlannedSteps
from unmergeable.bench.field.artefact import group_names
from unmergeable.bench.field.columns import MAIN, method_rows, plugins
from unmergeable.bench.field.prepared_suite import Scene, weights_hash
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.evaluation.task_file import TaskFile

STEPS = 100


def _tuned() -> Attack:
    plan = replace(REPAIR, stops=(STEPS,))
    act: After = lambda thief, released, merged: tune(thief, released, merged, plan)  # noqa: E731
    what = "Trains the merge on the thief's own labelled items."
    return Attack(
        f"fine_tune_{STEPS}", "fine-tune the merge", what, "labels", after=act, labels=True
    )


FINE_TUNE = _tuned()
PULL_BACK = attack_named("pull_back_in_domain")
# By the names of columns: the alignment and the attack that a cell of theirs stands for.
ALIGNMENTS = {"align": FULL, "aga": "aga", "fine_tune": FULL, "pull_back": FULL}
ATTACKS = {
    "fine_tune": FINE_TUNE,
    "distil_release": attack_named("distil_release_in_domain"),
    "fine_tune_release": attack_named("fine_tune_release"),
}


@dataclass(frozen=True, eq=False)
class Group:
    """Models and tasks of one group, ready to merge, with one release among them.

    Attributes:
        names: of the tasks, the owner's first.
        grid: measures.
    """

    names: tuple[str, ...]
    grid: Grid

    def measure(self, attack: str, row: Row | None) -> list[Measurement]:
        """What an attack and a merge method, if the attack merges, make of the release.

        Raises:
            InputError: a method whose merge the attack cannot start from; data that are missing.
        """
        if (other := plugins().get(attack)) is not None:
            return self.grid.measure(Cell("protected", row, FULL, guarded(other)))
        known = PULL_BACK if attack == "pull_back" else ATTACKS.get(attack)
        if known and (missing := without_data(self.grid.inputs.thief, known)):
            raise InputError(f"{missing[0]}: give the tasks 'train' items.")
        cell = Cell("protected", row, ALIGNMENTS.get(attack, ""), ATTACKS.get(attack))
        if attack == "fine_tune" and row is not None and row.routed:
            raise InputError("it keeps weights per task: there is no one merge to fine-tune")
        if attack != "pull_back" or row is None:
            return self.grid.measure(cell)
        # The variant of the pull-back that merges best by task arithmetic, on validation items.
        (first,) = method_rows(MAIN[:1], True)
        best = self.grid.repaired(PULL_BACK, first.few(), self.grid.start(cell))
        return [self.grid.merge(row, best)]


@lru_cache(maxsize=1)
def open_group(scene: Scene, group: str, released: Path) -> Group:
    """A group's models with a release; the last one is kept."""
    names, grid = _opened(scene, group)
    digests = {**grid.inputs.digests, "protected": weights_hash(released)}
    inputs = replace(grid.inputs, protected=open_folder(released), digests=digests)
    return Group(names, Grid(inputs, grid.folder))


@lru_cache(maxsize=1)
def _opened(scene: Scene, group: str) -> tuple[tuple[str, ...], Grid]:
    names = group_names(scene, group)
    first, *rest = (scene.experts[name] for name in names)
    texts = {"in-domain": scene.texts} if scene.texts else {}
    tasks = TaskFile(tuple(range(len(names))), tuple(scene.scored(names)), texts)
    inputs = prepare(first, scene.base, first, rest, tasks, scene.cache, 0, PlannedSteps())
    return names, Grid(inputs, scene.cache / "field" / "searches")
