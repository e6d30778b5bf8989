"""LOT-Merging against its closed forms."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    FAMILIES,
    close,
    corpus,
    ingredients,
)
from unmergeable.merging.linear_layers import grams, linear_layers, owner
from unmergeable.merging.methods import OWN


@pytest.mark.parametrize("family", FAMILIES)
def test_lot_is_its_formulas(family):
    given = ingredients(family)
    given = replace(given, corpora=[corpus(i, batches=8, rows=8) for i in (1, 2)])
    merged = OWN["lot"](given).state
    linears = linear_layers(given.layout)
    read = [grams(given, i, linears) for i in range(2)]
    squares = [{}, {}]
    gains = [n for n, t in given.base.items() if t.ndim == 1 and not n.endswith("bias")]
    for i, model in enumerate(given.models):
        given.runner.load_state(model)
        seen = {name: [] for name in gains}
        handles = []
        for name in gains:

            def look(module, x, out, into=seen[name]):
                if family == "gpt2":  # LayerNorm
                    into.append(torch.nn.functional.layer_norm(x[0], x[0].shape[-1:], eps=1e-5))
                else:
                    scale = (x[0].square().mean(-1, keepdim=True) + 1e-6).rsqrt()
                    into.append(x[0] * scale)

            handles.append(owner(given.runner.model, name).register_forward_hook(look))
        with torch.no_grad():
            for batch in given.corpora[i].batches:
                given.corpora[i].task.logits(given.runner.model, batch)
        for handle in handles:
            handle.remove()
        squares[i] = {n: torch.cat([x.flatten(0, 1) for x in s]).square() for n, s in seen.items()}
    for name, tensor in merged.items():
        parts = [model[name] - given.base[name] for model in given.models]
        change = tensor - given.base[name]
        if name in linears:
            matrix = linears[name].matrix
            g = [r[name].double() for r in read]
            left = sum(matrix(d).double() @ x for d, x in zip(parts, g, strict=True))
            wanted = left @ torch.linalg.pinv(g[0] + g[1])
            close(matrix(change).double(), wanted, 2e-2)
        elif name in gains:
            x = [s[name].mean(0) for s in squares]
            close(change, (x[0] * parts[0] + x[1] * parts[1]) / (x[0] + x[1]), 1e-3)
        else:
            close(change, (parts[0] + parts[1]) / 2)
