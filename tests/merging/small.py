"""Tiny models, experts of them, and a task on random tokens: what merge methods are tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.tiny import LLAMA, llama_in_memory, llama_weights, save
from unmergeable.architectures.layout import Layout
from unmergeable.evaluation.task import Batch, Task
from unmergeable.merging.method import Corpus, Ingredients
from unmergeable.models.device import placed
from unmergeable.models.model_runner import ModelRunner

WORDS = 24
CLASSES = 3
FAMILIES = ("llama", "gpt2")


@dataclass(frozen=True, kw_only=True)
class Guess(Task):
    """The logits of the first words as the next token; a batch's labels are what it was given."""

    kind: ClassVar[str] = "guess"

    def batches(self, runner, texts, labels=None, groups=None):
        raise NotImplementedError

    def logits(self, model, batch):
        ids = placed(model, batch.inputs)["input_ids"]
        return model(input_ids=ids).logits[:, -1, :CLASSES].float()


def runner(family="llama", seed=0):
    if family == "llama":
        sizes = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24}
        sizes |= {"max_position_embeddings": 16, "tie_word_embeddings": True}
        return ModelRunner(llama_in_memory(seed, **sizes))
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return ModelRunner(GPT2LMHeadModel(config))


def state_of(running):
    """A model's tensors by the names in its folder: a tied head is not stored."""
    return {
        name: tensor.detach().clone()
        for name, tensor in running.model.state_dict().items()
        if name != "lm_head.weight"
    }


def layout_of(running, state):
    config = running.model.config.to_dict() | {"architectures": [type(running.model).__name__]}
    return Layout.of(config, {name: tuple(tensor.shape) for name, tensor in state.items()})


def noisy(state, seed, size=0.1):
    """An expert: every number moved a little."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=draw)
        for name, tensor in state.items()
    }


def corpus(seed, batches=2, rows=4, labels=False):
    draw = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(batches):
        ids = torch.randint(WORDS, (rows, 6), generator=draw)
        answers = torch.randint(CLASSES, (rows,), generator=draw) if labels else None
        out.append(Batch({"input_ids": ids}, tuple(range(rows)), answers, {}))
    return Corpus(Guess(name=f"guess{seed}", title="guess"), out)


def ingredients(family="llama", count=2, *, labels=False, experts=None, seed=0, **sizes):
    """A base, experts of it, and inputs for each."""
    running = runner(family)
    base = state_of(running)
    models = experts(base) if experts else [noisy(base, i + 1, **sizes) for i in range(count)]
    corpora = [corpus(10 + i, labels=labels) for i in range(len(models))]
    return Ingredients(models, base, layout_of(running, base), running, corpora, seed)


def answers(given, state, batch):
    """What a state answers to a batch."""
    given.runner.load_state(state)
    with torch.no_grad():
        return given.corpora[0].task.logits(given.runner.model, batch)


def close(a, b, tolerance=1e-5):
    """Near in absolute terms and in relative ones."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bases(rows, columns, seed=0):
    """Orthonormal left and right directions."""
    return (
        torch.linalg.qr(drawn(rows, rows, seed=seed))[0],
        torch.linalg.qr(drawn(columns, columns, seed=seed + 1))[0],
    )


def mean_loss(given, state, loss):
    given.runner.load_state(state)
    with torch.no_grad():
        values = [
            loss(corpus.task.logits(given.runner.model, batch), batch, 0)
            for corpus in given.corpora
            for batch in corpus.batches
        ]
    return float(torch.stack(values).mean())


def pair(folder: Path, ours=None, theirs=None) -> list[Path]:
    """Two Llamas of equal shapes whose configs, over the tiny one's, have these keys."""
    folders = []
    for seed, (name, changes) in enumerate({"one": ours, "two": theirs}.items()):
        folders.append(save(folder / name, llama_weights(seed), {**LLAMA, **(changes or {})}))
    return folders
