"""The bench on which a group of models is merged and attacked: the audit's own machinery.

One process holds one bench at a time; opening it loads the models and scores them, or looks the
scores up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.attack import After, Attack, Variant
from unmergeable.attacks.fine_tune import REPAIR, tune
from unmergeable.attacks.ladder import attack_named
from unmergeable.attacks.rebuilt import as_stock
from unmergeable.auditing.audit_inputs import Setting, load, prepare
from unmergeable.auditing.candidates import Model, code_digest
from unmergeable.auditing.cells import Cell, Cells, Price
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.fitting import fitted, tamed
from unmergeable.auditing.progress import Progress
from unmergeable.bench.field.artefact import group_names
from unmergeable.bench.field.grid import MAIN, method_rows
from unmergeable.bench.field.prepared_suite import Scene
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.models.weights import Weights

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
CEILINGS = {
    "distil_release": attack_named("distil_release_in_domain"),
    "fine_tune_release": attack_named("fine_tune_release"),
}


@dataclass(eq=False)
class Bench:
    """Models and tasks of one group, ready to merge.

    Attributes:
        names: of the tasks, the owner's first.
        setting: the audit's.
        cells: measures merges.
    """

    names: tuple[str, ...]
    setting: Setting
    cells: Cells
    _subjects: dict[tuple[Path, str], tuple[Model, Price]] = field(default_factory=dict)

    def subject(self, released: Path, attack: str) -> tuple[Model, Price]:
        """What an attack makes of a released folder before merging, and its price.

        Args:
            released: the folder.
            attack: "none" for the folder as it is (as a stock model, where it is none), "align",
                "aga" or "pull_back".
        """
        key = (released, attack)
        if key not in self._subjects:
            self._subjects.clear()  # one model at a time
            made = {
                "none": self._stock,
                "align": self._aligned,
                "aga": lambda folder: self._aligned(folder, "aga"),
                "pull_back": self._pulled_back,
            }
            self._subjects[key] = made[attack](released)
        return self._subjects[key]

    def fine_tuned(self, row: Row, released: Path) -> Cell:
        """Alignment, the method's best merge, and 100 steps on the thief's own items."""
        if row.routed:
            raise InputError("it keeps weights per task: there is no one merge to fine-tune")
        model, price = self.subject(released, "align")
        cell = self.cells.merge(row, model, price)
        if cell.reason:
            raise InputError(f"there is no merge to start from: {cell.reason}")
        chosen = self.setting.candidates.again(row, model, cell.label)
        start = Model(chosen.make().state, store.digest(chosen.about))
        found = self.cells.snapshots(FINE_TUNE, self.setting.thief, model, start, cell.price)
        return found[-1]

    def _stock(self, released: Path) -> tuple[Model, Price]:
        with as_stock(open_folder(released), self.setting.base) as folder:
            return load(self.setting, folder), Price()

    def _aligned(self, released: Path, method: str = "full") -> tuple[Model, Price]:
        clock = time.perf_counter()
        with as_stock(open_folder(released), self.setting.base) as folder:
            aligned = align_tensors(folder, self.setting.base, method=method)
            seconds = time.perf_counter() - clock
            base = self.setting.candidates.base.state
            weights, _ = tamed(fitted(Weights.of_bytes(folder, aligned.tensors), base), base)
        model = Model(weights.tensors, weights.digest)
        about = {"align": method, "of": str(released.parent.name)}
        return model, Price(seconds=self.cells.seconds_kept(about, model, seconds))

    def _pulled_back(self, released: Path) -> tuple[Model, Price]:
        """The variant of the pull-back that merges best by task arithmetic, on validation items."""
        model, price = self._aligned(released)
        thief, (row,) = self.setting.thief, method_rows(MAIN[:1], True)
        best = self.cells.before(PULL_BACK, thief, row.few(), model, price)
        if best.reason:
            raise InputError(best.reason)
        assert PULL_BACK.before is not None
        variants = PULL_BACK.before(thief, model.state)
        while True:
            clock = time.perf_counter()
            variant = next(variants, None)
            if variant is None:
                raise InputError(f"the pull-back gave no {best.label['variant']!r} again")
            if variant.label == best.label["variant"]:
                seconds = time.perf_counter() - clock
                return self._known(model, variant), price + Price.of(variant, seconds)

    def _known(self, model: Model, variant: Variant) -> Model:
        """A variant of the pull-back, known by what it was made from."""
        candidates = self.setting.candidates
        about = {
            "pull-back": variant.label,
            "of": model.identity,
            "base": candidates.base.identity,
            "texts": candidates.inputs,
            "seed": candidates.seed,
            "code": code_digest(),
        }
        return Model(variant.state, store.digest(about))


def open_bench(scene: Scene, group: str) -> Bench:
    """Loads a group's models; the last one is kept."""
    return _opened(scene, group)


@lru_cache(maxsize=1)
def _opened(scene: Scene, group: str) -> Bench:
    names = group_names(scene, group)
    first, *rest = (scene.experts[name] for name in names)
    tasks = TaskFile(
        tuple(range(len(names))), tuple(scene.scored(names)), {"in-domain": scene.texts}
    )
    setting = prepare(first, scene.base, first, rest, tasks, scene.cache, 0, Progress())
    cells = Cells(
        setting.evaluator, setting.candidates, setting.reference, scene.cache / "field" / "searches"
    )
    return Bench(names, setting, cells)
