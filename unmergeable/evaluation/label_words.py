"""Label words: which one does a causal language model find likeliest as the prompt's next token?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch, Grouping, Task, buckets, chosen_labels, padded
from unmergeable.models.device import placed

if TYPE_CHECKING:
    import torch

    from unmergeable.models.model_runner import ModelRunner


@dataclass(frozen=True, kw_only=True)
class WordTask(Task):
    """A classification task whose answer is the next token of a prompt.

    Attributes:
        template: The prompt; holds ``{text}`` once and ends where the label word begins.
        words: One label word per class, leading space included where the tokenizer wants it.
    """

    kind: ClassVar[str] = "words"

    template: str
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.template.count("{text}") != 1:
            raise InputError(
                f"the template of task {self.name} is {self.template!r}: it must hold {{text}} once"
            )
        if len(self.words) < 2:
            raise InputError(
                f"task {self.name} has {len(self.words)} label words: give two or more"
            )
        self._check_labels(len(self.words))

    def prompt(self, text: str) -> str:
        """What a model reads before it names the label."""
        # not str.format: the text may hold braces
        return self.template.replace("{text}", text)

    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """See [`Task.batches`][unmergeable.evaluation.task.Task.batches].

        Sequences are padded on the right: in a causal model no position sees what follows it, so
        the padding changes nothing. The mask is for methods that look at a layer's inputs.

        Raises:
            InputError: No tokenizer, or label words that begin with the same token.
        """
        import torch

        if runner.tokenizer is None:
            raise InputError(f"task {self.name} needs a tokenizer, and the model folder has none.")
        words = torch.tensor(label_tokens(runner.tokenizer, self))
        prompts = [self.prompt(text) for text in texts]
        ids = runner.tokenizer(prompts)["input_ids"] if prompts else []
        out = []
        for rows in (groups or buckets)([len(sequence) for sequence in ids]):
            inputs = padded([ids[row] for row in rows])
            extra = {"last": inputs["attention_mask"].sum(1) - 1, "words": words}
            out.append(Batch(inputs, tuple(rows), chosen_labels(labels, rows), extra))
        return out

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits of the label words; the head is applied to the last position and their rows only.

        Args:
            model: A transformers causal language model.
            batch: From `batches`.

        Returns:
            float32, shape (items, classes).
        """
        import torch

        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        ids = placed(model, batch.inputs)["input_ids"]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator, union-attr]
        last = hidden[torch.arange(len(ids)), batch.extra["last"]]
        words, bias = batch.extra["words"], getattr(head, "bias", None)
        with torch.autocast(ids.device.type, enabled=False):
            return torch.nn.functional.linear(
                last.float(),
                head.weight[words].float(),
                None if bias is None else bias[words].float(),
            )


def label_tokens(tokenizer: Any, task: WordTask) -> list[int]:
    """First token of each label word.

    Raises:
        InputError: Two label words begin with the same token, so they cannot be told apart.
    """
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in task.words]
    if len(set(tokens)) < len(tokens):
        raise InputError(
            f"label words {task.words} of task {task.name} begin with tokens {tokens}: choose "
            "words whose first tokens differ"
        )
    return tokens
