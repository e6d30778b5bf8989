"""Linear heads: fitted to a base's features, trained with an expert's trunk, kept apart from it.

A head belongs to its task. It is never merged and is no part of the expert's folder, which has the
base's tensors and no others. So the zero of a task's scale is the base's trunk under the head that
was trained with the expert. For that to be a fair zero the head starts as a linear probe of the
base (then only the trunk's change can make the expert much better than the base), as in LP-FT
(Kumar et al. 2022, section 3); the joint training moves it little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head, Pooling, pooled
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.scoring import precision
from unmergeable.evaluation.task import Item, Task
from unmergeable.evaluation.texts import TextTask

if TYPE_CHECKING:
    import torch

    from unmergeable.models.model_runner import ModelRunner

FILE = "head.safetensors"
# What the head is called inside the model while both are trained.
_MODULE = "task_head"
_ITERATIONS = 200

HeadedTask = TypeVar("HeadedTask", bound=Task)


def probe(
    runner: ModelRunner, task: Task, pooling: Pooling = "mean", penalty: float = 1e-2
) -> dict[str, torch.Tensor]:
    """Fits a linear head to the features of a frozen model: multinomial logistic regression.

    Features are standardised for the fit, and the head is given for them as they are.

    Args:
        runner: Holds the model.
        task: Whose train split is used.
        pooling: Which features; see [`Head`][unmergeable.evaluation.heads.Head].
        penalty: Weight of the squared norm of the head on standardised features, beside the mean
            cross-entropy.

    Returns:
        `weight` (classes, width) and `bias` (classes), float32, under the names that the runner's
        model knows them by in training; see `learning`.

    Raises:
        InputError: The task has no train split.
    """
    import torch

    values, labels = features(runner, task, task.items("train"), pooling)
    centre, spread = values.mean(0), values.std(0).clamp(min=1e-6)
    values = (values - centre) / spread
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, values.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        entropy = torch.nn.functional.cross_entropy(values @ weight.T + bias, labels)
        total = entropy + penalty * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        plain = weight / spread
        shift = bias - plain @ centre
    return {f"{_MODULE}.weight": plain.float(), f"{_MODULE}.bias": shift.float()}


def features(
    runner: ModelRunner, task: Task, items: tuple[Item, ...], pooling: Pooling
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a head would read, float64 (items, width), and the labels, in the items' order."""
    import torch

    if not items:
        raise InputError(f"task {task.name} has no train items: a head cannot be fitted.")
    batches = task.batches(runner, [item.text for item in items])
    rows: dict[int, torch.Tensor] = {}
    runner.model.eval()
    with torch.no_grad(), precision(runner):
        for batch in batches:
            found = pooled(runner.model, batch.inputs, pooling)
            rows.update(zip(batch.items, found.double().cpu(), strict=True))
    values = torch.stack([rows[index] for index in range(len(items))])
    return values, torch.tensor([item.label for item in items])


@dataclass(frozen=True)
class _Learning(Head):
    """A head that is a module of the model in training, so that the loop trains both."""

    module: Any = None

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:  # type: ignore[override]
        return {"weight": self.module.weight, "bias": self.module.bias}


def learning(
    runner: ModelRunner, task: HeadedTask, head: Mapping[str, torch.Tensor], pooling: Pooling
) -> HeadedTask:
    """Puts a head into a runner's model, and gives the task that answers through it.

    Args:
        runner: Whose model takes it.
        task: Of encoders or vision models.
        head: From `probe`: what a state to train must hold besides the trunk's tensors.
        pooling: What it reads.

    Raises:
        InputError: A task of another kind.
    """
    import torch

    classes, width = head[f"{_MODULE}.weight"].shape
    module = torch.nn.Linear(width, classes)
    runner.model.add_module(_MODULE, module)
    return _with(task, _Learning(Path(FILE), pooling, module))


def write_head(head: Mapping[str, torch.Tensor], pooling: Pooling, folder: Path) -> None:
    """Writes a head as tasks read it, with its pooling in the file's metadata."""
    from safetensors.torch import save_file

    tensors = {name.rpartition(".")[2]: tensor.contiguous() for name, tensor in head.items()}
    save_file(tensors, folder / FILE, {"pooling": pooling})


def headed(task: HeadedTask, expert: str | Path) -> HeadedTask:
    """The task with the head that was trained together with an expert.

    Args:
        task: What the expert was trained on.
        expert: Its folder, from [`expert`][unmergeable.training.experts.expert].

    Raises:
        InputError: No head lies beside the folder, or the task is of a kind without heads.
    """
    from safetensors import safe_open

    path = Path(expert).parent / FILE
    if not path.is_file():
        raise InputError(f"there is no {path}: was {expert} trained with a HeadRecipe?")
    with safe_open(path, "pt") as file:
        pooling: Any = file.metadata()["pooling"]
    return _with(task, Head(path, pooling))


def _with(task: HeadedTask, head: Head) -> HeadedTask:
    if not isinstance(task, TextTask | ImageTask):
        raise InputError(f"task {task.name} is of kind {task.kind!r}, which has no heads.")
    return replace(task, head=head)
