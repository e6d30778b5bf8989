"""Tasks of lm-evaluation-harness (EleutherAI, MIT licence): imported, and asked in its own way."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch, Grouping, Item, Task
from unmergeable.extras import optional
from unmergeable.models.device import computes_bfloat16

if TYPE_CHECKING:
    import torch

    from unmergeable.evaluation.scoring import Score
    from unmergeable.models.model_runner import ModelRunner

METRICS = ("acc", "exact_match")
# The library's own default: of the examples that stand before a question.
_SEED = 1234
_BATCH = 8
_BARS = ("api.task", "api.model", "models.huggingface")


@dataclass(frozen=True, kw_only=True)
class HarnessTask(Task):
    """A task of lm-evaluation-harness, by its name there; made by [`harness_task`].

    An item's text is the library's document as JSON, its label the document's number. An item's
    mark is the metric that the task reports: accuracy, or else exact match, after its first filter.
    Its loss is the cross-entropy over the choices, or of the answer; 0 where it was generated.

    Attributes:
        harness: the task's name in the library.
        folder: where further definitions are; empty for none.
        metric: what is reported, one of `METRICS`.
        definition: hash of the library's version and the task's definition.
    """

    kind: ClassVar[str] = "harness"

    harness: str
    folder: str = ""
    metric: str
    definition: str

    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """Refuses: nothing but the task's own questions can be put in its way.

        Raises:
            InputError: there are texts.
        """
        if not texts:
            return []
        raise InputError(
            f"task {self.name} is asked by lm-evaluation-harness, which takes no other texts and "
            "gives no gradients. For attacks with texts, list a task of another kind before it."
        )

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Refuses as `batches` does.

        Raises:
            InputError: always.
        """
        raise InputError(f"task {self.name} is asked by lm-evaluation-harness: it has no logits.")

    def exam(self, runner: ModelRunner, items: Sequence[Item]) -> Callable[[], Score]:
        """See [`Task.exam`][unmergeable.evaluation.task.Task.exam].

        Raises:
            InputError: no tokenizer, or one without an end-of-text token.
        """
        from unmergeable.evaluation.scoring import Score, readable

        if getattr(runner.tokenizer, "eos_token_id", None) is None:
            raise InputError(
                f"task {self.name} needs a tokenizer with an end-of-text token, and the model "
                "folder has none."
            )
        task = _loaded(self.harness, self.folder)
        evaluate = optional("lm_eval.evaluator").evaluate
        # Its autocast is off unless it is told, and it gives the tokenizer a padding token.
        reader = optional("lm_eval.models.huggingface").HFLM(
            pretrained=runner.model,
            tokenizer=copy.deepcopy(runner.tokenizer),
            batch_size=_BATCH,
            mixed_precision_dtype="bfloat16" if computes_bfloat16(runner.device) else None,
            softmax_dtype="float32",
        )
        wanted = sorted(item.label for item in items)  # as the library goes through them

        def measure() -> Score:
            if not wanted:  # to the library, no choice means all
                return Score((), ())
            runner.model.eval()
            with _quiet():
                found = evaluate(
                    reader,
                    {"tasks": {self.harness: task}, "groups": {}},
                    samples={self.harness: wanted},
                    bootstrap_iters=0,
                    log_samples=True,
                )
            by_number: dict[int, Mapping[str, Any]] = {}
            for sample in found["samples"][self.harness]:
                by_number.setdefault(sample["doc_id"], sample)  # the first filter comes first
            asked = [by_number[item.label] for item in items]
            losses = [readable(_loss(sample)) for sample in asked]
            return Score(tuple(map(self._mark, asked)), tuple(losses))

        return measure

    def _mark(self, sample: Mapping[str, Any]) -> float:
        """The reported figure; likelihoods that are no numbers are wrong, whichever is largest."""
        mark = float(sample[self.metric])
        return mark if math.isfinite(mark) and math.isfinite(_loss(sample)) else 0.0

    def _content(self) -> list[Any]:
        return [self.name, self.validation, self.test, self.harness, self.metric, self.definition]


def harness_task(
    name: str,
    harness: str,
    *,
    title: str = "",
    source: str = "",
    limit: int | None = None,
    folder: str | Path = "",
) -> HarnessTask:
    """Loads a task of the library; items with even numbers are for choosing, odd ones for testing.

    Args:
        name: short identifier.
        harness: what the library calls it.
        title: for tables.
        source: where its items come from, with their licence.
        limit: only the first this many items.
        folder: of further definitions, YAML as the library reads it.

    Raises:
        InputError: the library cannot load it, or it is not a single task with right and wrong
            answers.
        MissingExtraError: the library is not installed.
    """
    if limit is not None and limit < 2:
        raise InputError(f"task {name}: the limit is {limit}: give 2 or more.")
    task = _loaded(harness, str(folder))
    metric = next((metric for metric in METRICS if metric in task.aggregation()), None)
    if metric is None:
        raise InputError(
            f"task {name}: {harness!r} of lm-evaluation-harness reports "
            f"{', '.join(task.aggregation())}: choose one that reports {' or '.join(METRICS)}."
        )
    documents = [json.dumps(d, sort_keys=True, default=str) for d in list(task.eval_docs)[:limit]]
    items = [Item(document, number) for number, document in enumerate(documents)]
    if len(items) < 2:
        raise InputError(f"task {name}: {harness!r} has {len(items)} items: it takes 2 or more.")
    return HarnessTask(
        name=name,
        title=title or name,
        source=source,
        validation=tuple(items[::2]),
        test=tuple(items[1::2]),
        harness=harness,
        folder=str(folder),
        metric=metric,
        definition=_definition(task),
    )


@functools.cache
def _loaded(harness: str, folder: str) -> Any:
    """The library's own task object; loading reads its whole data set, so once per process."""
    manager = optional("lm_eval.tasks").TaskManager
    logger = logging.getLogger("lm_eval")
    if logger.level == logging.NOTSET:  # it warns on each model that is in memory already
        logger.setLevel(logging.ERROR)
    try:
        with _quiet():
            # Listing the library's own thousands takes seconds: only where the folder has it not.
            known = manager(include_path=folder, include_defaults=False) if folder else None
            if known is None or harness not in known.all_tasks:
                known = manager(include_path=folder or None)
            found = known.load([harness])
    except Exception as error:  # whatever the library, its data sets and their network raise
        raise InputError(
            f"lm-evaluation-harness cannot load the task {harness!r}: "
            f"{type(error).__name__}: {error}"
        ) from None
    if list(found["tasks"]) != [harness]:
        raise InputError(
            f"{harness!r} of lm-evaluation-harness is not a single task but "
            f"{', '.join(found['tasks']) or 'empty'}: name one of its tasks."
        )
    task = found["tasks"][harness]
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise InputError(
            f"{harness!r} of lm-evaluation-harness runs code that models write, or shows images: "
            "an audit asks text questions only. Choose another task."
        )
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    inner = task.fewshot_context

    def context(*arguments: Any, **options: Any) -> Any:
        # Otherwise an item's examples hang on which items were asked before it.
        task.set_fewshot_seed(_SEED)
        return inner(*arguments, **options)

    task.fewshot_context = context
    return task


def _definition(task: Any) -> str:
    """What tells a task from a changed one; where its data lie on this machine does not."""
    config = {
        k: v for k, v in task.dump_config().items() if k not in ("dataset_kwargs", "metadata")
    }
    text = json.dumps(config, sort_keys=True, default=str)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # functions without source
    return hashlib.sha256(f"{version('lm_eval')}\n{text}".encode()).hexdigest()


def _loss(sample: Mapping[str, Any]) -> float:
    """Cross-entropy of a sample's right answer in nats, from the likelihoods that were asked."""
    answers, target = sample["filtered_resps"], sample["target"]
    likelihoods = [a[0] for a in answers if isinstance(a, tuple | list) and len(a) == 2]
    if not likelihoods or len(likelihoods) < len(answers):
        return 0.0
    if not all(map(math.isfinite, likelihoods)):
        return math.inf
    if len(likelihoods) == 1:
        return -float(likelihoods[0])
    if not isinstance(target, int) or not 0 <= target < len(likelihoods):
        return 0.0
    top = max(likelihoods)
    total = math.log(sum(math.exp(likelihood - top) for likelihood in likelihoods))
    return float(top + total - likelihoods[target])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars, of which an audit would show hundreds."""
    places = [optional(f"lm_eval.{name}") for name in _BARS]
    shown = [place.tqdm for place in places]
    for place, bar in zip(places, shown, strict=True):
        place.tqdm = lambda *a, bar=bar, **options: bar(*a, **{**options, "disable": True})
    try:
        yield
    finally:
        for place, bar in zip(places, shown, strict=True):
            place.tqdm = bar
