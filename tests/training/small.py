"""A tiny base that has seen a little of a made-up task, and short runs of training on it."""

import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    GPT2Config,
    GPT2LMHeadModel,
)

from tests.evaluation.living import TASK, VOCABULARY, items, model, runner, save, tokenizer
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.config import TrainConfig
from unmergeable.training.data import Items
from unmergeable.training.run import train

DATA = Items.of_words(TASK, items(160, 21))
HELD = Items.of_words(TASK, items(48, 22))
LABELLED = Items("label", items(160, 21))
LABELLED_HELD = Items("label", items(48, 22))
QUICK = {"end": False, "precision": "float32", "batch": 8, "patience": 0}


def _taught(module):
    """A little of the task, so that fine-tuning moves the weights no more than it does in life."""
    with torch.no_grad():  # at the size transformers draws them, no logit leaves the others behind
        module.get_input_embeddings().weight.mul_(5)
    runs = ModelRunner(module, tokenizer())
    texts, labels = zip(*items(320, 11), strict=True)
    batches = TASK.batches(
        runs, texts, labels, lambda lengths: [list(range(i, i + 16)) for i in range(0, 320, 16)]
    )
    random.Random(0).shuffle(batches)
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    words = torch.tensor([VOCABULARY.index(word) for word in TASK.words])
    for batch in batches:
        logits = module(input_ids=batch.inputs["input_ids"]).logits
        last = logits[torch.arange(len(batch.items)), batch.extra["last"]]
        torch.nn.functional.cross_entropy(last, words[batch.labels]).backward()
        optimiser.step()
        optimiser.zero_grad()
    return module


def _gpt2(dropout=0.0):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 2, "n_head": 4}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(n_positions=64, **sizes, **drops))


def _bert():
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _dinov2():
    torch.manual_seed(0)
    return Dinov2Model(
        Dinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
            mlp_ratio=2,
        )
    )


@cache
def base(kind="llama"):
    """The folder of a tiny base, made once per process."""
    folder = Path(mkdtemp(prefix="unmergeable-training-")) / kind
    made = {
        "llama": lambda: _taught(model()),
        "gpt2": lambda: _taught(_gpt2()),
        "gpt2 with dropout": lambda: _gpt2(dropout=0.3),
        "bert": _bert,
        "dinov2": _dinov2,
    }[kind]()
    return save(made.eval(), folder)


def run(out, kind="llama", data=DATA, validation=HELD, steps=40, rate=3e-3, **options):
    """A short run; options of the config, or of `train`."""
    known = {
        name: options.pop(name) for name in list(options) if name in TrainConfig.__annotations__
    }
    config = TrainConfig(**{**QUICK, "steps": steps, "every": steps, "rate": rate, **known})
    return train(base(kind), out, data, validation=validation, config=config, **options)


def weights(folder):
    """A folder's tensors."""
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def held_loss(module):
    """Mean cross-entropy of the held-out label words over the whole vocabulary."""
    runs = runner(module)
    total = 0.0
    for prompt, word in HELD.rows:
        ids = torch.tensor([runs.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            logits = runs.model(input_ids=ids).logits[0, -1]
        total -= float(logits.log_softmax(0)[VOCABULARY.index(word)])
    return total / len(HELD.rows)
