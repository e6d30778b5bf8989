"""MergeBarrier-style protection (reconstructed): what it keeps, what it refuses, how it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from tests.architectures.families import FAMILIES, all_in_float64, outputs
from tests.architectures.moving import inputs_of, scene
from tests.defences.barrier import (
    BY_NAME,
    CHOSEN,
    KEY,
    converted,
    gap,
    layout_of,
    loaded,
    stock,
    values_of,
    write,
)
from unmergeable.checkpoint.folder import open_folder
from unmergeable.defences import lock
from unmergeable.defences.mergebarrier.custom_code.modeling_mergebarrier import TaylorDown, TaylorUp
from unmergeable.defences.mergebarrier.mergebarrier import convert
from unmergeable.defences.mergebarrier.sign_flip import attention_gauge
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.groups import Rotary
from unmergeable.keys.key import Key

OTHER = Key(bytes(32))
LLAMA, BERT = BY_NAME["llama-tied"], BY_NAME["bert-bare"]


def named(family):
    return family.name


# Attention


# Without one space of queries and keys, or with none that flips pass.
NO_FLIPS = (
    "clip", "siglip", "swin", "phi-normed", "stablelm2", "cohere-normed", "mpt-clipped", "pixtral",
    "internvl-vision", "idefics3-vision", "smolvlm-vision", "convnext", "dinov3-convnext",
    "mamba2", "olmo-hybrid", "segformer", "gemma4-vision", "gemma4-clipped", "gemma4-audio",
    "llama4-vision", "qwen2-audio-encoder", "gemma4-unified", "donut", "trocr-decoder",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_the_flips_change_the_weights_and_not_the_function(family):
    stage = scene(family.name)
    layout, values = stage.layout, {name: w.numpy() for name, w in stage.state.items()}
    if family.name.startswith(NO_FLIPS):
        with pytest.raises(UnsupportedError, match=r"query-key|no flip"):
            attention_gauge(layout, values.__getitem__, 2)
        return
    gauge = attention_gauge(layout, values.__getitem__, 2)
    flipped = stage.moved(gauge)
    queries = [n for n in values if any("qk" in a.names() for a in layout.placements[n].rule.axes)]
    assert all((flipped[n].numpy() != values[n]).any() for n in queries if values[n].ndim > 1)
    assert all((flipped[n].numpy() == values[n]).all() for n in values if n not in queries)
    with all_in_float64():
        found = outputs(stage.filled(flipped), inputs_of(family))
    assert gap(found, stage.before) < 1e-11


@pytest.mark.parametrize("family", [LLAMA, BY_NAME["qwen2"], BERT, BY_NAME["gpt2"]], ids=named)
def test_anybody_computes_the_flips_from_the_protected_weights(family, tmp_path):
    stock(family, tmp_path / "m")
    values, layout = values_of(tmp_path / "m"), layout_of(tmp_path / "m")
    gauge = attention_gauge(layout, values.__getitem__, 2)
    flipped = {name: layout.tensor_map(name, gauge)(x) for name, x in values.items()}
    again = attention_gauge(layout, flipped.__getitem__, 2)
    back = {name: layout.tensor_map(name, again)(x) for name, x in flipped.items()}
    for name in values:
        np.testing.assert_allclose(back[name], values[name], atol=1e-12)


@pytest.mark.parametrize("family", [LLAMA, BERT], ids=named)
@pytest.mark.parametrize("directions", [2, 3])
def test_no_flip_of_so_many_directions_moves_the_weights_more(family, directions, tmp_path):
    stock(family, tmp_path / "m")
    values, layout = values_of(tmp_path / "m"), layout_of(tmp_path / "m")
    space = layout.spaces["qk"]
    gauge = attention_gauge(layout, values.__getitem__, directions)
    moved = sum(((layout.tensor_map(name, gauge)(x) - x) ** 2).sum() for name, x in values.items())
    rotary = isinstance(space.group, Rotary)
    best = 0.0
    for layer in range(2):
        heads = {"q": [], "k": []}
        for name, x in values.items():
            for part in heads:
                if f".{layer}." in name and any(
                    end in name for end in (f"{part}_proj.weight", {"q": "query", "k": "key"}[part])
                ):
                    heads[part].append(x.reshape(-1, space.size, x.shape[1] if x.ndim > 1 else 1))
        q, k = (np.concatenate(heads[part], axis=2) for part in ("q", "k"))
        q = q.reshape(len(k), -1, *q.shape[1:])
        for queries, keys in zip(q, k, strict=True):
            gram = sum(one @ one.T for one in queries) + keys @ keys.T
            if rotary:
                half = space.size // 2
                energy = np.diag(gram)[:half] + np.diag(gram)[half:]
                best += 4 * np.sort(energy)[-1]  # one plane: two directions, of 2 or 3
            else:
                best += 4 * np.sort(np.linalg.eigvalsh(gram))[-directions:].sum()
    assert moved == pytest.approx(best, rel=1e-9)
    if rotary:
        elements = (gauge(space, place) for place in layout.instances(space))
        assert all(element.is_lossless for element in elements)


@pytest.mark.parametrize("directions", [0, 4, 2.5, "many"])
def test_directions_out_of_range_are_refused(directions, tmp_path):
    stock(LLAMA, tmp_path / "m")
    with pytest.raises(InputError, match="directions="):
        converted(LLAMA, tmp_path / "m", directions=directions)


# The whole


@pytest.mark.parametrize("family", CHOSEN, ids=named)
def test_the_protected_model_computes_what_the_stock_one_does(family, tmp_path):
    model = stock(family, tmp_path / "m")
    made = converted(family, tmp_path / "m", neurons="0.5")
    assert made.measured["median_share"] == 0.5
    protected = loaded(write(made, tmp_path / "out"))
    inputs = family.inputs(padded=not family.image)
    # Some outputs are read at a padded position, where nothing was calibrated: the clamp holds.
    assert gap(outputs(protected, inputs), outputs(model, inputs)) < 1e-3
    # The stock class, even given the stock sizes: the folder's own config names none it knows, so
    # that without them some classes would build their default, a model of billions of weights.
    with pytest.raises(RuntimeError, match=r"size mismatch|ignore_mismatched_sizes"):
        getattr(transformers, family.model).from_pretrained(tmp_path / "out", config=model.config)
    protected.save_pretrained(tmp_path / "again")
    again = loaded(tmp_path / "again")
    assert torch.equal(outputs(again, inputs), outputs(protected, inputs))


@pytest.mark.parametrize("family", [LLAMA, BY_NAME["bert-masked"], BY_NAME["gpt2"]], ids=named)
def test_the_error_falls_with_the_order(family, tmp_path):
    model = stock(family, tmp_path / "m")
    inputs = family.inputs(padded=True)
    found, claimed = [], []
    for order in (2, 6, 12):
        made = converted(family, tmp_path / "m", neurons="all", order=order)
        claimed.append(made.measured["median_ffn_error"])
        model_there = loaded(write(made, tmp_path / str(order)))
        found.append(gap(outputs(model_there, inputs), outputs(model, inputs)))
    for errors in (found, claimed):
        assert errors[0] > 3 * errors[1]
        assert errors[1] > 3 * errors[2] or errors[2] < 1e-6
        assert errors[2] < 1e-3


def test_bfloat16_rounds_and_does_no_more(tmp_path):
    inputs = LLAMA.inputs()
    exact = outputs(stock(LLAMA, tmp_path / "wide"), inputs)
    model = stock(LLAMA, tmp_path / "m", dtype=torch.bfloat16)
    made = converted(LLAMA, tmp_path / "m", neurons="0.5")
    assert {str(x.dtype) for x in made.tensors.values()} == {"bfloat16"}
    protected = loaded(write(made, tmp_path / "out"), dtype=torch.float32)
    rounded = outputs(model.float(), inputs)
    assert gap(outputs(protected, inputs), exact) < 2 * gap(rounded, exact) < 0.05


def test_a_lock_may_come_first(tmp_path):
    """Ranges belong to the locked neurons, which have another order."""
    family = BY_NAME["bert-masked"]
    model = stock(family, tmp_path / "m", narrow=0.6)
    layout, values = layout_of(tmp_path / "m"), values_of(tmp_path / "m")
    chosen = lock.LockSettings.resolve({"scales": True}, layout)
    draw = lock.gauge(KEY, chosen)
    locked = {name: layout.tensor_map(name, draw)(x) for name, x in values.items()}
    plain, under = (
        converted(family, tmp_path / "m", values=given, neurons="0.5") for given in (values, locked)
    )
    assert np.allclose(under.measured["ffn_error"], plain.measured["ffn_error"], rtol=0.05)
    inputs = family.inputs(padded=True)
    protected = loaded(write(under, tmp_path / "out"))
    assert gap(outputs(protected, inputs), outputs(model, inputs)) < 1e-2


def test_signs_come_from_the_key_and_everything_else_does_not(tmp_path):
    stock(LLAMA, tmp_path / "m")
    one, same, other = (
        converted(LLAMA, tmp_path / "m", key, neurons="all").tensors for key in (KEY, KEY, OTHER)
    )
    assert all((one[name] == same[name]).all() for name in one)
    up = next(name for name in one if name.endswith("0.mlp.gate_proj.weight"))
    assert (np.abs(one[up]) == np.abs(other[up])).all()
    flips = (one[up] * other[up]).sum(1) < 0
    assert 0.2 < flips.mean() < 0.8
    terms = up.replace("gate_proj.weight", "down_proj.terms")
    differ = (np.sign(one[terms]) != np.sign(other[terms])).any(1)
    assert (differ[1::2][:, flips].all(1)).all() and not differ[0::2].any()


def test_neurons_that_no_polynomial_follows_stay(tmp_path):
    stock(LLAMA, tmp_path / "m", narrow=0.6)
    made = converted(LLAMA, tmp_path / "m", tolerance=0.05, order=6)
    assert all(0 < share < 1 for share in made.measured["share"])
    assert max(made.measured["ffn_error"]) < 0.05
    half = converted(LLAMA, tmp_path / "m", neurons="0.5", order=6)
    everything = converted(LLAMA, tmp_path / "m", neurons="all", order=6)
    assert max(half.measured["ffn_error"]) < min(everything.measured["ffn_error"]) / 10
    with pytest.raises(InputError, match="no neuron's activation"):
        converted(LLAMA, tmp_path / "m", tolerance=1e-12)


@pytest.mark.parametrize("clamp", [True, False])
def test_the_clamp_holds_what_leaves_the_range(clamp):
    torch.manual_seed(0)
    up = TaylorUp(4, 6, 2, "silu", transposed=False, clamp=clamp)
    torch.nn.init.normal_(up.weight)
    up.limit[:] = torch.tensor([0.5, 1.0])
    x = torch.randn(100, 4)
    raw = torch.nn.functional.linear(x, up.weight)[:, 4:]
    wanted = torch.stack([raw[:, 0].clamp(-0.5, 0.5), raw[:, 1].clamp(-1, 1)], 1)
    assert (raw != wanted).any()
    assert torch.equal(up(x)[:, 4:], wanted if clamp else raw)


def test_the_setting_reaches_the_clamp(tmp_path):
    stock(BERT, tmp_path / "m")
    for clamp in (True, False):
        made = converted(BERT, tmp_path / "m", neurons="0.5", clamp=str(clamp))
        model = loaded(write(made, tmp_path / str(clamp)))
        layers = [m for m in model.modules() if isinstance(m, TaylorUp)]
        assert len(layers) == 2 and all(layer.clamp is clamp for layer in layers)
        assert all((layer.limit > 0).all() for layer in layers)


def test_terms_are_powers(tmp_path):
    """One neuron by hand: t = -0.5, so the powers are -1/2, 1/4, -1/8."""
    down = TaylorDown(1, 1, 1, 3, False, 1, bias=True)
    with torch.no_grad():
        down.terms[:, 0, 0] = torch.tensor([3.0, 5.0, 7.0])
        down.bias.fill_(2.0)
    assert down(torch.tensor([[-0.5]])).item() == pytest.approx(2 - 1.5 + 1.25 - 0.875)


# Refusals


@pytest.mark.parametrize("family", [LLAMA, BERT, BY_NAME["gpt2"]], ids=named)
def test_relu_is_refused_by_name(family, tmp_path):
    stock(family, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    key = "activation_function" if family.name == "gpt2" else "hidden_act"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "relu"}))
    with pytest.raises(UnsupportedError, match="'relu' is not analytic"):
        converted(family, tmp_path / "m")


@pytest.mark.parametrize("data", [None, []])
def test_no_data_is_refused(data, tmp_path):
    stock(LLAMA, tmp_path / "m")
    folder = open_folder(tmp_path / "m")
    with pytest.raises(InputError, match="--data FILE"):
        convert(folder, layout_of(tmp_path / "m"), KEY, {}, data, values_of(tmp_path / "m").get)


@pytest.mark.parametrize(
    "given",
    [{"order": 13}, {"order": 2.5}, {"neurons": "most"}, {"clamp": "maybe"}, {"ordr": 3}],
    ids=str,
)
def test_a_wrong_setting_is_named(given, tmp_path):
    stock(LLAMA, tmp_path / "m")
    with pytest.raises(InputError, match=next(iter(given))):
        converted(LLAMA, tmp_path / "m", **given)


# As a user loads it

SCRIPT = """
import json, sys, torch, transformers
from pathlib import Path
root = Path(sys.argv[1])
for name, auto in json.loads(sys.argv[2]).items():
    kind = getattr(transformers, auto)
    try:
        kind.from_pretrained(root / name)
        raise SystemExit(f"{name} loads without remote code")
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    model = kind.from_pretrained(root / name, trust_remote_code=True).eval()
    model.save_pretrained(root / (name + "-again"))
    again = kind.from_pretrained(root / (name + "-again"), trust_remote_code=True).eval()
    inputs = torch.load(root / (name + ".pt"))
    with torch.no_grad():
        out, second = model(**inputs), again(**inputs)
    assert torch.equal(out[0], second[0])
    torch.save(out[0], root / (name + "-out.pt"))
    if auto == "AutoModelForCausalLM":
        ids = inputs["input_ids"][2:]
        told = [model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=c, pad_token_id=0)
                for c in (True, False)]
        assert torch.equal(*told)
        torch.save(told[0], root / "told.pt")
    assert not any(module.startswith("unmergeable") for module in sys.modules)
"""


def test_a_fresh_process_loads_it_with_remote_code_and_not_without(tmp_path):
    autos = {
        "llama-tied": "AutoModelForCausalLM",
        "llama-classifier": "AutoModelForSequenceClassification",
        "bert-bare": "AutoModel",
        "dinov2-bare": "AutoModel",
    }
    models = {}
    for name in autos:
        family = BY_NAME[name]
        models[name] = stock(family, tmp_path / f"{name}-stock")
        made = converted(family, tmp_path / f"{name}-stock", neurons="0.5")
        write(made, tmp_path / name)
        torch.save(family.inputs(padded=not family.image), tmp_path / f"{name}.pt")
    environment = dict(os.environ, HF_MODULES_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(autos)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for name, model in models.items():
        inputs = torch.load(tmp_path / f"{name}.pt")
        with torch.no_grad():
            wanted = model(**inputs)[0]
        found = torch.load(tmp_path / f"{name}-out.pt")
        if name != "llama-classifier" and "attention_mask" in inputs:
            mask = inputs["attention_mask"].bool()
            found, wanted = found[mask], wanted[mask]
        assert gap(found, wanted) < 1e-3, name
    ids = torch.load(tmp_path / "llama-tied.pt")["input_ids"][2:]
    told = models["llama-tied"].generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(torch.load(tmp_path / "told.pt"), told)
