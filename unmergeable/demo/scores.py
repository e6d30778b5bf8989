"""Measured accuracies, kept under a hash of everything they depend on.

No figure is stored in the code. A score is looked up by the content of the weights, the
configuration, the tokenizer and the task; so a model whose bytes are those of one already measured
needs no second measurement, and any other model gets its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.tasks.scoring import Score, accuracy
from unmergeable.tasks.task import Task
from unmergeable.zoo import cache as store

if TYPE_CHECKING:
    import torch

PRECISION = "bfloat16 autocast of float32 weights"
CODE = 2  # raise it when scoring.py changes what is measured


@dataclass(frozen=True)
class Weights:
    """A model's tensors with the hash of their names, dtypes, shapes and bytes."""

    tensors: Mapping[str, torch.Tensor]
    digest: str

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Weights:
        """Hash tensors that are in memory."""
        import numpy as np

        hasher = hashlib.sha256()
        for name in sorted(tensors):
            tensor = tensors[name].contiguous()
            hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            hasher.update(np.ascontiguousarray(tensor.numpy()).data)
        return cls(tensors, hasher.hexdigest())

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """Load the single weight file of a model folder."""
        from safetensors.torch import load_file

        return cls.of(load_file(folder / "model.safetensors"))

    def distance(self, other: Weights) -> float:
        """Frobenius distance of two models with the same tensors."""
        gaps = (
            float((tensor.double() - other.tensors[name].double()).square().sum())
            for name, tensor in self.tensors.items()
        )
        return math.sqrt(sum(gaps))


@dataclass
class Scorer:
    """Scores models on tasks; asks for a model only when a score is not known yet.

    Attributes:
        tasks: What to score on, test split.
        cache: The cache folder.
        measured: How many models were run rather than looked up.
    """

    tasks: tuple[Task, ...]
    cache: Path
    measured: int = 0

    def folder(self, folder: Path) -> list[Score]:
        """Score a model folder as stock transformers loads it."""
        weights = Weights.read(folder)

        def load() -> Any:
            import torch
            from transformers import AutoModelForCausalLM

            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

        return self._scores({"weights": weights.digest}, folder, load)

    def merged(self, about: Mapping[str, Any], like: Path, merge: Callable[[], Any]) -> list[Score]:
        """Score a merge in memory.

        Args:
            about: What the merge depends on, JSON-able: the key of its scores, so that a known one
                is not merged again.
            like: A model folder with the merge's configuration and tokenizer.
            merge: Returns the merged tensors by name.
        """

        def load() -> Any:
            from transformers import AutoConfig, AutoModelForCausalLM

            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like))
            missing, unexpected = model.load_state_dict(merge(), strict=False, assign=True)
            model.tie_weights()
            tied = set(getattr(model, "all_tied_weights_keys", {}))
            if unexpected or set(missing) - tied:
                raise InputError(
                    f"the merge misses tensors {missing} and has {unexpected} too many: its models "
                    "must have the same tensor names"
                )
            return model

        return self._scores({"merge": dict(about)}, like, load)

    def _scores(self, subject: dict[str, Any], like: Path, load: Callable[[], Any]) -> list[Score]:
        files = ("config.json", "tokenizer.json")
        paths = [
            self._path(subject, [store.file_hash(like / f) for f in files], t) for t in self.tasks
        ]
        if not all(path.exists() for path in paths):
            import torch
            from transformers import AutoTokenizer

            self.measured += 1
            model, tokenizer = load(), AutoTokenizer.from_pretrained(like)
            with torch.autocast("cpu", torch.bfloat16):
                for task, path in zip(self.tasks, paths, strict=True):
                    score = accuracy(model, tokenizer, task)
                    store.write_json(path, {"right": "".join("01"[r] for r in score.right)})
        return [_read(path) for path in paths]

    def _path(self, subject: dict[str, Any], files: list[str], task: Task) -> Path:
        import torch
        import transformers

        key = {
            "subject": subject,
            "files": files,
            "task": task.content_hash,
            "split": "test",
            "precision": PRECISION,
            "software": [torch.__version__, transformers.__version__, CODE],
        }
        return self.cache / "scores" / f"{store.digest(key)[:32]}.json"


def _read(path: Path) -> Score:
    marks = json.loads(path.read_text(encoding="utf-8"))["right"]
    return Score(tuple(mark == "1" for mark in marks))
