"""Quantised folders: float8 moves with its scales, everything else is refused by name."""

from __future__ import annotations

import contextlib
import json
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.architectures.families import all_in_float64, outputs
from tests.architectures.float8 import dequantised, family_named, save_float8
from tests.architectures.moving import scene, shapes
from tests.architectures.twin import KEY, loaded
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.defences import lock
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError
from unmergeable.merging.merge import merge
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect, unlock

# Rows of FAMILIES and blocks: whole heads, several heads in a block, blocks that cut through heads
# (of ten, in DeepSeek), and through what is left at the end of an axis.
BLOCKS = [
    ("llama", (4, 4)),
    ("llama", (8, 12)),
    ("llama-own-head-dim", (16, 4)),
    ("qwen3", (4, 4)),
    ("phi4-mini", (4, 8)),
    ("mixtral", (4, 4)),
    ("qwen3-moe", (5, 4)),
    ("deepseek-v3", (4, 4)),
    ("deepseek-v2-lite", (4, 16)),
]
blocks = pytest.mark.parametrize(
    ("name", "block"), BLOCKS, ids=lambda value: value if isinstance(value, str) else str(value)
)


def settings_of(block):
    return {"quant_method": "fp8", "weight_block_size": list(block), "activation_scheme": "dynamic"}


def per_axis(scales, **runtime):
    weights = {"num_bits": 8, "type": "float", "strategy": scales, "symmetric": True}
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, **runtime}
    group = {"weights": weights, "input_activations": inputs, "targets": ["Linear"]}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
    }


def error(family, one, two, hook=None):
    """The largest difference of an output, relative to the largest, in float64."""
    found = []
    with all_in_float64():
        model = family.build(torch.float64)
        for state in (one, two):
            twin = loaded(model, state)
            with contextlib.ExitStack() as stack:
                if hook:
                    for module in twin.modules():
                        if isinstance(module, torch.nn.Linear):
                            handle = module.register_forward_pre_hook(hook)
                            stack.callback(handle.remove)
                found.append(outputs(twin, family.inputs(torch.float64, padded=True)))
    open_, locked = found
    return float((open_ - locked).abs().max() / open_.abs().max())


@blocks
def test_blocks_stay_together_and_the_function_stays(name, block, tmp_path):
    family = family_named(name)
    save_float8(family, tmp_path / "open", block, settings_of(block), "weight_scale_inv")
    protect(tmp_path / "open", tmp_path / "locked", KEY, settings={"line": "x"})
    one, two = (dequantised(tmp_path / n, block, "weight_scale_inv") for n in ("open", "locked"))
    # What the locked folder stands for is what the open one stands for, moved: bit for bit.
    folder = open_folder(tmp_path / "open")
    layout = Layout.of(folder.config, folder.shapes)
    gauge = lock.gauge(KEY.salted("line:x"), lock.LockSettings.resolve({}, layout))
    for key, weight in two.items():
        source = layout.source(key, gauge)
        assert np.array_equal(layout.tensor_map(source, gauge)(one[source].numpy()), weight), key
    assert error(family, one, two) < 1e-9
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact


@blocks
def test_inputs_that_are_quantised_block_by_block_do_not_see_it(name, block, tmp_path):
    """At run time the inputs of a matrix get a scale for each of its blocks of columns."""
    family = family_named(name)
    save_float8(family, tmp_path / "open", block, settings_of(block), "weight_scale_inv")
    protect(tmp_path / "open", tmp_path / "locked", KEY)

    def hook(module, inputs):
        (x,) = inputs
        padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % block[1]))
        groups = padded.reshape(*x.shape[:-1], -1, block[1])
        scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 448
        rounded = (groups / scale).float().to(torch.float8_e4m3fn).double() * scale
        return (rounded.reshape(padded.shape)[..., : x.shape[-1]],)

    one, two = (dequantised(tmp_path / n, block, "weight_scale_inv") for n in ("open", "locked"))
    assert error(family, one, two, hook) < 1e-9
    assert error(family, one, two) > 0.0
    if name == "llama":  # the same model, moved as if there were no blocks: inputs round otherwise
        folder = open_folder(tmp_path / "open")
        plain = {key: value.shape for key, value in one.items()}
        config = {k: v for k, v in folder.config.items() if k != "quantization_config"}
        layout = Layout.of(config, plain)
        gauge = lock.gauge(KEY, lock.LockSettings.resolve({}, layout))
        torn = {
            key: torch.from_numpy(layout.tensor_map(key, gauge)(value.numpy()).copy())
            for key, value in one.items()
        }
        assert error(family, one, torn) < 1e-9 < 1e-4 < error(family, one, torn, hook)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_stock_transformers_reads_both(name, tmp_path):
    family = family_named(name)
    save_float8(family, tmp_path / "open", (4, 4), settings_of((4, 4)), "weight_scale_inv")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    how = {"dtype": torch.bfloat16, "attn_implementation": "eager"}  # dequantised where no GPU is
    cls = getattr(transformers, family.model)
    one, two = (
        outputs(cls.from_pretrained(tmp_path / n, **how).eval().float(), family.inputs())
        for n in ("open", "locked")
    )
    assert float((one - two).abs().max() / one.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("block", "settings"),
    [
        ((1, 0), per_axis("channel", strategy="token")),
        ((0, 0), per_axis("tensor", strategy="tensor")),
        ((1, 0), per_axis("channel", strategy="group", group_size=4)),
    ],
    ids=["rows", "all", "rows, inputs in groups"],
)
@pytest.mark.parametrize("name", ["llama", "qwen2", "mixtral"])
def test_scales_of_rows_follow_their_rows(name, block, settings, tmp_path):
    family = family_named(name)
    save_float8(family, tmp_path / "open", block, settings, "weight_scale")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    one, two = (dequantised(tmp_path / n, block, "weight_scale") for n in ("open", "locked"))
    assert 0.0 < error(family, one, two) < 1e-9
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("open", "locked"))
    scale = "model.layers.0.self_attn.q_proj.weight_scale"
    assert torch.equal(before[scale].sort(0)[0], after[scale].sort(0)[0])
    assert torch.equal(before[scale], after[scale]) == (block == (0, 0))


def test_blocks_cost_bits_and_no_space(tmp_path):
    family = family_named("llama")
    family.build().save_pretrained(tmp_path / "plain")
    save_float8(family, tmp_path / "blocks", (4, 4), settings_of((4, 4)), "weight_scale_inv")
    one, two = (
        {space.name: space for space in inspect(tmp_path / n).spaces if space.group}
        for n in ("plain", "blocks")
    )
    assert one.keys() == two.keys()
    # Six blocks of four: 6! orders of blocks, 4! orders in each, 24 signs.
    want = np.log2(720) + 6 * np.log2(24) + 24
    assert two["residual"].bits == pytest.approx(want)
    assert "blocks that share a scale stay together" in two["residual"].group
    assert all(two[name].bits <= one[name].bits for name in one)


def test_a_scale_of_ones_own_costs_nothing_but_powers_of_two(tmp_path):
    family = family_named("llama")
    save_float8(family, tmp_path / "m", (1, 0), per_axis("channel"), "weight_scale")
    residual = next(s for s in inspect(tmp_path / "m").spaces if s.name == "residual")
    assert residual.group == "any order, any signs"


@pytest.mark.parametrize("given", [{"kind": "general"}, {"scales": "true"}])
@pytest.mark.parametrize("block", [(4, 4), (1, 0)])
def test_float8_is_neither_rotated_nor_scaled(block, given, tmp_path):
    settings = settings_of(block) if block == (4, 4) else per_axis("channel")
    scale = "weight_scale_inv" if block == (4, 4) else "weight_scale"
    save_float8(family_named("llama"), tmp_path / "m", block, settings, scale)
    if block == (4, 4) and "scales" in given:
        protect(tmp_path / "m", tmp_path / "out", KEY, settings=given)  # blocks know no scales
        assert unlock(tmp_path / "out", tmp_path / "again", KEY).exact
        return
    with pytest.raises(UnsupportedError, match=r"kind=lossless|powers of two"):
        protect(tmp_path / "m", tmp_path / "out", KEY, settings=given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("defence", ["mergelock", "params", "mergebarrier"])
def test_defences_that_look_at_values_are_refused(defence, tmp_path):
    save_float8(
        family_named("llama"), tmp_path / "m", (4, 4), settings_of((4, 4)), "weight_scale_inv"
    )
    with pytest.raises(UnmergeableError, match=r"quantised \(fp8\).*Dequantise"):
        protect(tmp_path / "m", tmp_path / "out", KEY, defence=defence, base=tmp_path / "m")


def test_weights_without_their_scales_are_not_merged(tmp_path):
    save_float8(
        family_named("llama"), tmp_path / "m", (4, 4), settings_of((4, 4)), "weight_scale_inv"
    )
    with pytest.raises(UnsupportedError, match="can be locked, but not merged"):
        merge([tmp_path / "m", tmp_path / "m"], tmp_path / "out", "karcher")


Q = "model.layers.0.self_attn.q_proj."
PACKED = {
    "gptq": (["qweight", "qzeros", "scales", "g_idx"], "qweight", "several weights into one"),
    "awq": (["qweight", "qzeros", "scales"], "qweight", "several weights into one"),
    "bitsandbytes": (["weight", "weight.absmax", "weight.quant_map"], "absmax", "64 weights"),
    "compressed-tensors": (["weight_packed", "weight_scale", "weight_shape"], "packed", "several"),
    "hqq": (["W_q"], "", "nobody has declared"),
}


@pytest.mark.parametrize("method", PACKED)
def test_other_methods_are_refused_by_name(method, tmp_path):
    ends, named, why = PACKED[method]
    folder = tmp_path / "m"
    family_named("llama").build().save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    del state[Q + "weight"]
    state |= {Q + end: torch.zeros(8, 3, dtype=torch.int32) for end in ends}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for call in (inspect, lambda path: protect(path, tmp_path / "out", KEY)):
        with pytest.raises(UnsupportedError) as caught:
            call(folder)
        text = str(caught.value)
        assert f"quantised by {method}" in text and why in text and "Dequantise" in text
        assert not named or re.search(rf"q_proj\.\S*{named}", text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["qweight", "weight_scale_inv", "SCB", "weight.absmax"])
def test_a_config_that_says_nothing_of_quantised_tensors_is_refused(end):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(InputError, match=rf"q_proj\.{end}.*has no quantization_config"):
        Layout.of(config, {Q + "weight": (24, 24), Q + end: (1,)})


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.uint8], ids=str)
@pytest.mark.parametrize("rows", [1, 0], ids=["rows", "all"])
def test_inspect_refuses_the_scales_that_protect_refuses(rows, dtype, tmp_path):
    """Exponents without sign or mantissa, as the newest float8 models have them."""
    folder = tmp_path / "m"
    kind = per_axis("channel" if rows else "tensor")
    save_float8(family_named("llama"), folder, (rows, 0), kind, "weight_scale")
    state = load_file(folder / "model.safetensors")
    state |= {k: t.to(dtype) for k, t in state.items() if k.endswith("weight_scale")}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    if not rows:  # one scale for all stays where it is
        assert inspect(folder).bits > 0
        assert protect(folder, tmp_path / "out", KEY).out.exists()
        return
    for call in (inspect, lambda path: protect(path, tmp_path / "out", KEY)):
        with pytest.raises(UnsupportedError, match=r"(F8_E8M0|U8) cannot be moved"):
            call(folder)
    with pytest.raises(UnsupportedError, match=r"_proj\.weight_scale: dtype"):
        inspect(folder)
    assert not (tmp_path / "out").exists()


def test_mixed_schemes_are_refused():
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    for change in (
        {"kv_cache_scheme": {"num_bits": 8}},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"format": "int-quantized"},
    ):
        found = {**per_axis("channel"), **change}
        with pytest.raises(UnsupportedError, match="compressed-tensors"):
            Layout.of({**config, "quantization_config": found}, {Q + "weight": (24, 24)})


@pytest.mark.parametrize("block", ["4", [4], [0, 4], [4.0, 4]])
def test_blocks_that_are_no_blocks_are_refused(block):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": block}
    with pytest.raises(InputError, match="blocks of its quantisation"):
        Layout.of(config, {Q + "weight": (24, 24)})


# What a config says of weights that are plain ------------------------------------------------

LEFT_OVER = [
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"load_in_8bit": True},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "awq"},
    {"quant_method": "hqq"},
    {"quant_method": "fp8", "weight_block_size": [4, 4]},
    per_axis("channel"),
]


@pytest.mark.parametrize("found", LEFT_OVER, ids=lambda found: found.get("quant_method", "none"))
def test_a_config_that_speaks_of_plain_weights_as_quantised_is_told_so(found, tmp_path):
    folder = tmp_path / "m"
    family_named("llama").build().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": found}))
    for call in (inspect, lambda path: protect(path, tmp_path / "out", KEY)):
        with pytest.raises(InputError, match="the weights are plain") as caught:
            call(folder)
        assert "left over" in str(caught.value) and "remove that key" in str(caught.value)
        assert found.get("quant_method", "does not name") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_setting_left_over_in_the_language_models_own_config_is_found():
    stage = scene("llava")
    text = {**stage.saved["text_config"], "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(InputError, match="left over"):
        Layout.of({**stage.saved, "text_config": text}, shapes(stage.state))


def test_weights_of_other_shapes_are_not_called_plain():
    """Packed by a method that nobody has declared: half as many columns, and no scales by name."""
    stage = scene("llama")
    config = {**stage.saved, "quantization_config": {"quant_method": "vptq"}}
    packed = {
        name: (shape[0], shape[1] // 2) if "_proj" in name else shape
        for name, shape in shapes(stage.state).items()
    }
    with pytest.raises(UnsupportedError, match="quantised by vptq, which cannot be moved"):
        Layout.of(config, packed)
