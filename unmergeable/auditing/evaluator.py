"""Scores of candidate models, measured once per content and kept on disk.

No figure is stored in the code. A score is looked up by what the candidate is made of (hashes of
weights, method, parameters, seeds, versions), the configuration, the tokenizer and the task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score, cast_once, precision_name
from unmergeable.evaluation.task import Split, Task
from unmergeable.merging.method import Merged, State
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import give_back

CODE = 5  # raise it when scoring changes what is measured

Make = Callable[[], Merged]


class Evaluator:
    """Scores candidates on tasks; makes a candidate only when a score is not known yet.

    Args:
        runner: runs them.
        folder: the model folder whose configuration and tokenizer it has.
        tasks: what to score on.
        owners: per task, whose it is.
        cache: where scores are kept.
        like: weights whose names and shapes every candidate has.

    Attributes:
        tasks: what to score on.
        owners: per task, which model's it is: an index into the models of a merge.
        measured: how many candidates were run.
        looked_up: how many were not, since all their scores were known.
    """

    def __init__(
        self,
        runner: ModelRunner,
        folder: Path,
        tasks: Sequence[Task],
        owners: Sequence[int],
        cache: Path,
        like: State,
    ) -> None:
        # What the runner holds between candidates takes no memory: one zero, seen in every place.
        self._hollow = {
            name: one.new_zeros((), device=runner.device).expand(one.shape)
            for name, one in like.items()
        }
        self.tasks, self.owners = tuple(tasks), tuple(owners)
        self.measured = self.looked_up = 0
        self._runner, self._cache = runner, cache
        self._held: tuple[str, Merged] | None = None
        self._exams: dict[tuple[int, str, int, int], Callable[[], Score]] = {}
        names = ("config.json", "tokenizer.json", "preprocessor_config.json")
        self._files = [store.file_hash(folder / f) for f in names if (folder / f).exists()]
        self._software = [version("torch"), version("transformers"), CODE]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What every score depends on besides the candidate, JSON-able."""
        return {
            "files": self._files,
            "precision": precision_name(self._runner),
            "device": self._runner.device.type,
            "software": self._software,
        }

    def scores(
        self, about: Mapping[str, Any], make: Make, split: Split, start: int = 0, stop: int = -1
    ) -> list[Score]:
        """Scores a candidate on a slice of each task's items.

        Args:
            about: all that the candidate depends on, JSON-able.
            make: makes it.
            split: which items.
            start: the first of them.
            stop: the first that is left out; -1 for none.

        Returns:
            One score per task, in their order.
        """
        counts = [len(task.items(split)) for task in self.tasks]
        ends = [count if stop < 0 else min(stop, count) for count in counts]
        paths = [
            self._path(about, task, split, start, end)
            for task, end in zip(self.tasks, ends, strict=True)
        ]
        sizes = [max(0, end - start) for end in ends]
        known = [_read(path, size) for path, size in zip(paths, sizes, strict=True)]
        found = [score for score in known if score is not None]
        if len(found) == len(known):
            self.looked_up += 1
            return found
        self.measured += 1
        return self._measure(self._merged(about, make), paths, split, start, ends)

    def are_known(self, about: Mapping[str, Any], split: Split) -> bool:
        """Whether a candidate's scores on all items of a split can be looked up."""
        counts = [len(task.items(split)) for task in self.tasks]
        return all(
            _read(self._path(about, task, split, 0, count), count) is not None
            for task, count in zip(self.tasks, counts, strict=True)
        )

    def forget(self) -> None:
        """Drops the candidate that was kept in memory, and hands that memory back."""
        self._held = None
        self._rest()
        give_back()

    def _rest(self) -> None:
        """Empties the runner, before what would stand beside the weights it held is made.

        What it held is not handed back to the system: the next candidate of a method takes the same
        memory, and zeroing its pages again would take as long as a simple merge.
        """
        self._runner.load_state(self._hollow)

    def making(self, about: Mapping[str, Any]) -> float:
        """The most seconds that it took to make a candidate; 0 if it never was made.

        One that scales a merge which is still there takes less when it is made again.
        """
        found = store.kept(self._making(about))
        return float(found["seconds"]) if found else 0.0

    def _making(self, about: Mapping[str, Any]) -> Path:
        name = store.digest(about)[:32]
        return self._cache / "making" / name[:2] / f"{name}.json"

    def _merged(self, about: Mapping[str, Any], make: Make) -> Merged:
        """The candidate; the last one is kept, since its further items are often asked for next."""
        key = store.digest(about)
        if self._held is None or self._held[0] != key:
            self._held = None  # the runner and this held the last one: free it for the next
            self._rest()
            start = time.perf_counter()
            self._held = (key, make())
            seconds = max(time.perf_counter() - start, self.making(about))
            store.keep(self._making(about), {"seconds": seconds})
        return self._held[1]

    def _measure(
        self, merged: Merged, paths: Sequence[Path], split: Split, start: int, ends: Sequence[int]
    ) -> list[Score]:
        scores: list[Score] = []
        current: int | None = None
        with ExitStack() as loaded:
            for index, (path, end) in enumerate(zip(paths, ends, strict=True)):
                owner = self.owners[index] if merged.by_model else -1
                if current != owner:
                    loaded.close()
                    self._load(merged, owner, loaded)
                    current = owner
                found = self._exam(index, split, start, end)()
                marks = [round(mark, 6) for mark in found.marks]
                losses = [round(loss, 5) for loss in found.losses]
                store.keep(path, {"marks": marks, "losses": losses})
                scores.append(Score(tuple(marks), tuple(losses)))
        return scores

    def _load(self, merged: Merged, owner: int, loaded: ExitStack) -> None:
        """Has the runner hold what is deployed for a task, as it scores it, until it is let go."""
        if merged.by_model:  # the next one may be made on the way
            self._rest()
        self._runner.load_state(merged.by_model[owner] if merged.by_model else merged.state)
        if merged.rewire:
            loaded.callback(merged.rewire(self._runner.model))
        loaded.enter_context(cast_once(self._runner))

    def _exam(self, index: int, split: Split, start: int, stop: int) -> Callable[[], Score]:
        key = (index, split, start, stop)
        if key not in self._exams:
            task = self.tasks[index]
            self._exams[key] = task.exam(self._runner, task.items(split)[start:stop])
        return self._exams[key]

    def _path(
        self, about: Mapping[str, Any], task: Task, split: Split, start: int, stop: int
    ) -> Path:
        key = {
            **self.fingerprint,
            "subject": about,
            "task": task.content_hash,
            "items": [split, start, stop],
        }
        name = store.digest(key)[:32]
        return self._cache / "scores" / name[:2] / f"{name}.json"


def joined(first: Sequence[Score], second: Sequence[Score]) -> list[Score]:
    """Scores of two slices of the same tasks as one."""
    return [
        Score(a.marks + b.marks, a.losses + b.losses) for a, b in zip(first, second, strict=True)
    ]


def _read(path: Path, size: int) -> Score | None:
    """What was measured of this many items; None if nothing was, or if it is damaged."""
    found = store.kept(path)
    if found is None or len(found["marks"]) != size:
        return None
    return Score(tuple(found["marks"]), tuple(found["losses"]))
