"""Image classification: pooled hidden states of a vision model and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head, answers
from unmergeable.evaluation.store import file_hash
from unmergeable.evaluation.task import Batch, Grouping, Item, Split, Task, chosen_labels
from unmergeable.extras import optional

if TYPE_CHECKING:
    import torch

    from unmergeable.models.model_runner import ModelRunner

_IMAGES_PER_BATCH = 16
# Mean and deviation of ImageNet's channels, for folders without a preprocessor_config.json.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """An image classification task; the items' texts are paths of image files.

    Attributes:
        head: the task's own head; None where the model has a classifier (and merges it).
        size: images are scaled to this many pixels a side where the folder has no preprocessor;
            None for the model's own size.
    """

    kind: ClassVar[str] = "image"

    head: Head | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.head is not None:
            self._check_labels(self.head.classes)

    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """See [`Task.batches`][unmergeable.evaluation.task.Task.batches]."""
        import torch

        default = [
            list(range(start, min(start + _IMAGES_PER_BATCH, len(texts))))
            for start in range(0, len(texts), _IMAGES_PER_BATCH)
        ]
        out = []
        for rows in default if groups is None else groups([1] * len(texts)):
            pixels = torch.stack([self._pixels(runner, texts[row]) for row in rows])
            inputs = {"pixel_values": pixels}
            out.append(Batch(inputs, tuple(rows), chosen_labels(labels, rows), {}))
        return out

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """See [`Task.logits`][unmergeable.evaluation.task.Task.logits]."""
        return answers(model, batch.inputs, self.head, self.name)

    def _content(self) -> list[Any]:
        """As of other tasks, but with what is in the images: they may lie anywhere."""
        try:
            read: dict[str, Any] = {
                split: tuple(Item(file_hash(path), label) for path, label in self.items(split))
                for split in get_args(Split)
            }
        except OSError as error:
            raise InputError(f"an image of task {self.name} cannot be read: {error}") from None
        return Task._content(replace(self, **read))

    def _pixels(self, runner: ModelRunner, path: str) -> torch.Tensor:
        """One image as the model reads it: float32, shape (channels, height, width)."""
        import numpy as np
        import torch

        library = optional("PIL.Image")
        try:
            image = library.open(path).convert("RGB")
        except Exception as error:
            raise InputError(f"{path} is not an image: {error}") from None
        if runner.image_processor is not None:
            processed = runner.image_processor(images=image, return_tensors="pt")
            return processed["pixel_values"][0]  # type: ignore[no-any-return]
        config: Any = runner.model.config
        size = self.size or config.image_size
        values = np.asarray(image.resize((size, size)), np.float32) / 255
        normal = (values - np.array(_MEAN)) / np.array(_DEVIATION)
        return torch.tensor(normal, dtype=torch.float32).permute(2, 0, 1)
