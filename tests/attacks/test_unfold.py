"""Unfold gives the stock model back from a MergeBarrier-style one, without key, base and data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.architectures.families import outputs
from tests.defences.barrier import (
    BY_NAME,
    CHOSEN,
    converted,
    gap,
    layout_of,
    stock,
    values_of,
    write,
)
from unmergeable.attacks.align import align
from unmergeable.attacks.unfold import recover, unfold
from unmergeable.defences.mergebarrier.sign_flip import attention_gauge
from unmergeable.defences.mergebarrier.taylor import ACTIVATIONS
from unmergeable.errors import InputError


def unfolded(folder, out):
    """Unfolds a folder into a stock one."""
    found = unfold(
        load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    )
    out.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(found.config))
    return found


@pytest.mark.parametrize("share", ["0.5", "all"])
@pytest.mark.parametrize("family", CHOSEN, ids=lambda family: family.name)
def test_the_stock_function_comes_back_to_rounding(family, share, tmp_path):
    model = stock(family, tmp_path / "m", narrow=0.3)
    # At order 3 the protected model itself is far off: what comes back is not its function.
    made = converted(family, tmp_path / "m", neurons=share, order=3)
    found = unfolded(write(made, tmp_path / "out"), tmp_path / "back")
    assert found.residual < 1e-6
    kind = getattr(transformers, family.model)
    back, report = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    inputs = family.inputs(padded=not family.image)
    assert gap(outputs(back.eval(), inputs), outputs(model, inputs)) < 1e-5


@pytest.mark.parametrize("name", ["llama-tied", "bert-masked"])
def test_the_very_weights_come_back_but_for_flips_and_order(name, tmp_path):
    family = BY_NAME[name]
    stock(family, tmp_path / "m", narrow=0.3)
    made = converted(family, tmp_path / "m", neurons="all")
    unfolded(write(made, tmp_path / "out"), tmp_path / "back")
    wanted, found = values_of(tmp_path / "m"), values_of(tmp_path / "back")
    assert wanted.keys() == found.keys()
    layout = layout_of(tmp_path / "back")
    # The flips are computed again from the protected weights, as any thief can.
    gauge = attention_gauge(layout, found.__getitem__, made.settings["directions"])
    for key, value in found.items():
        value = layout.tensor_map(key, gauge)(value)
        for axis, declared in enumerate(layout.placements[key].rule.axes):
            if "ffn" in declared.names():
                layer = layout.placements[key].index["layer"]
                value = np.take(value, np.argsort(made.sources[layer]), axis)
        assert np.linalg.norm(value - wanted[key]) < 2e-6 * np.linalg.norm(wanted[key]), key


def test_alignment_ends_it(tmp_path):
    """Unfolded and aligned to the base, the expert is itself again: flips and order are gone."""
    family = BY_NAME["llama-tied"]
    model = stock(family, tmp_path / "base", narrow=0.3)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * weight.std() * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "expert")
    made = converted(family, tmp_path / "expert", neurons="all")
    unfolded(write(made, tmp_path / "out"), tmp_path / "back")
    align(tmp_path / "back", tmp_path / "aligned", tmp_path / "base")
    expert, base, found = (values_of(tmp_path / n) for n in ("expert", "base", "aligned"))
    tau, left = (
        np.sqrt(sum(((expert[key] - other[key]) ** 2).sum() for key in expert))
        for other in (base, found)
    )
    assert left < 1e-3 * tau


@pytest.mark.parametrize("hint", [True, False], ids=["bare", "biased"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("order", [3, 8])
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new"])
def test_signs_and_centres_are_recovered(name, order, first, hint):
    random = np.random.default_rng(0)
    activation, count = ACTIVATIONS[name], 200
    centre, sign = random.normal(size=count) * 1.5, random.choice([-1.0, 1.0], size=count)
    columns = random.normal(size=(6, count))
    rows = activation.coefficients(centre, order) * sign ** np.arange(order + 1)[:, None]
    terms = (columns * rows[:, None])[first:].astype(np.float32).astype(np.float64)
    found = recover(terms, first, activation, -sign * centre if hint else None)
    assert (found[0] == sign).all()
    np.testing.assert_allclose(found[1], centre, atol=2e-5)
    np.testing.assert_allclose(found[2], columns, rtol=1e-4, atol=1e-5)
    assert found[3] < 1e-6


def test_the_residual_tells_when_terms_are_of_another_activation():
    random = np.random.default_rng(0)
    rows = ACTIVATIONS["silu"].coefficients(random.normal(size=40), 8)
    terms = random.normal(size=(6, 40)) * rows[:, None]
    assert recover(terms, 0, ACTIVATIONS["gelu"], None)[3] > 1e-2


def test_an_ordinary_folder_is_refused():
    with pytest.raises(InputError, match="mergebarrier"):
        unfold({}, {"model_type": "llama"})
