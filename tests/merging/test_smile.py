"""SMILE against its formula, token by token."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    FAMILIES,
    answers,
    close,
    drawn,
    ingredients,
    noisy,
)
from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.methods import OWN


def linear_only(given, seeds):
    """Experts that differ from the base in linear layers, biases included, alone."""
    names = set(linear_layers(given.layout))
    names |= {name.removesuffix("weight") + "bias" for name in names}
    return [
        {n: noisy({n: t}, seed, 0.2)[n] if n in names else t for n, t in given.base.items()}
        for seed in seeds
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_smile_of_one_expert_with_full_rank_is_that_expert(family):
    given = ingredients(family)
    given = replace(given, models=linear_only(given, [1]))
    merged = OWN["smile"](given, k=-1)
    batch = given.corpora[0].batches[0]
    wanted = answers(given, given.models[0], batch)
    base = answers(given, merged.state, batch)
    close(base, answers(given, given.base, batch))
    given.runner.load_state(merged.state)
    undo = merged.rewire(given.runner.model)
    with torch.no_grad():
        close(given.corpora[0].task.logits(given.runner.model, batch), wanted)
    undo()
    close(answers(given, merged.state, batch), base, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("k", "top_k"), [(2, 1), (2, 2), (-1, 2)])
def test_smile_routes_each_token_by_its_formula(family, k, top_k):
    given = ingredients(family)
    given = replace(given, models=linear_only(given, [1, 2]))
    merged = OWN["smile"](given, k=k, gate_k=3, top_k=top_k)
    name = {
        "llama": "model.layers.0.mlp.down_proj.weight",
        "gpt2": "transformer.h.0.mlp.c_proj.weight",
    }[family]
    bias = name.removesuffix("weight") + "bias"
    side = (lambda w: w.T) if family == "gpt2" else (lambda w: w)
    width = side(given.base[name]).shape[1]
    x = drawn(2, 5, width)
    given.runner.load_state(merged.state)
    module = given.runner.model.get_submodule(name.removesuffix(".weight"))
    undo = merged.rewire(given.runner.model)
    with torch.no_grad():
        found = module(x)
    undo()
    zero = torch.zeros(found.shape[-1])
    shares, parts = [], []
    for model in given.models:
        delta = side(model[name] - given.base[name])
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        shares.append((x @ vh[:3].T).norm(dim=-1))
        low = delta if k == -1 else (u[:, :k] * s[:k]) @ vh[:k]
        parts.append(x @ low.T + (model[bias] - given.base[bias] if bias in model else zero))
    shares = torch.stack(shares, -1).softmax(-1)
    if top_k == 1:
        shares = (shares == shares.max(-1, keepdim=True).values).float()
    wanted = x @ side(given.base[name]).T + given.base.get(bias, zero)
    wanted = wanted + sum(shares[..., i, None] * part for i, part in enumerate(parts))
    close(found, wanted, 1e-4)


def test_smile_keeps_the_rest_from_the_base_or_averages_it():
    given = ingredients("gpt2")
    kept, averaged = (OWN["smile"](given, average_rest=rest).state for rest in (False, True))
    for name, tensor in given.base.items():
        moved = "attn" not in name and "mlp" not in name
        mean = (given.models[0][name] + given.models[1][name]) / 2
        close(kept[name], tensor)
        close(averaged[name], mean if moved else tensor)
    for wrong in ({"k": 0}, {"gate_k": 0}, {"top_k": 3}, {"top_k": 0}):
        with pytest.raises(InputError, match="smile got"):
            OWN["smile"](given, **wrong)
