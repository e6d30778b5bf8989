"""Verdicts on outputs: what passes, and the wrong models that must not."""

import math

import numpy as np
import pytest

from tests.tiny import llama, llama_weights, save, weights_of, write_safetensors
from unmergeable.checkpoint.folder import open_folder
from unmergeable.verification.forward import Outputs
from unmergeable.verification.output_comparison import (
    EXACT_TOLERANCE,
    KL_MOST,
    MOST,
    OutputComparison,
    compare_outputs,
    rounding_tolerance,
)

RANDOM = np.random.default_rng(0)
SHAPE = (40, 50)
LOGITS = 3 * RANDOM.normal(size=SHAPE)


def compared(one, two, tolerance=MOST, what="logits"):
    pair = (Outputs(what, (np.asarray(values, np.float32),)) for values in (one, two))
    return compare_outputs(*pair, "these", tolerance)


def test_figures_are_those_of_the_definitions():
    noise = RANDOM.normal(size=SHAPE) * 0.1
    a, b = np.float32(LOGITS).astype(float), np.float32(LOGITS + noise).astype(float)
    found = compared(a, b, tolerance=0.04)
    assert found.rms_difference == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    inner = [x - x.mean(-1, keepdims=True) for x in (a, b)]
    assert found.varying_difference == pytest.approx(
        np.linalg.norm(inner[0] - inner[1]) / np.linalg.norm(inner[0])
    )
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    assert found.mean_kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert found.scale == np.abs(a).max() and found.max_difference == np.abs(a - b).max()
    assert found.top1_agreement == (a.argmax(-1) == b.argmax(-1)).mean() < 1
    size = math.sqrt((inner[0] ** 2).mean())
    assert found.kl_allowed == pytest.approx(4 * (0.04 * size) ** 2, rel=1e-6)
    assert compared(a, b).kl_allowed == KL_MOST < 4 * (MOST * size) ** 2
    assert found.same and found.top1_tied == 1.0


WRONG = {
    "another model": lambda x: RANDOM.permutation(x.ravel()).reshape(x.shape),
    "zero": np.zeros_like,
    "the mean": lambda x: x * 0 + x.mean(),
    "each position's mean": lambda x: x * 0 + x.mean(-1, keepdims=True),
    "each value's mean": lambda x: x * 0 + x.mean(0),
    "one class always": lambda x: np.eye(x.shape[1])[np.zeros(len(x), int)] * np.abs(x).max(),
    "off by its size": lambda x: x + 3.0,
    "scaled": lambda x: x * 1.3,
    "another sign": np.negative,
    "another order": lambda x: x[::-1],
}


@pytest.mark.parametrize("offset", [0.0, -100.0])
@pytest.mark.parametrize("what", ["logits", "last_hidden_state"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_model_never_passes(wrong, what, offset):
    """Not even where all outputs stand far from zero, as many models' logits do."""
    right = LOGITS + offset
    changed = WRONG[wrong](LOGITS) + offset
    if what == "logits" and offset and wrong == "off by its size":
        return  # less than the tolerance of outputs this large, and nothing to a softmax
    assert not compared(right, changed, what=what).same
    assert compared(right, right, what=what).same


def test_a_single_class_has_no_distribution_and_is_compared_all_the_same():
    scores = LOGITS[:, :1] + 50
    found = compared(scores, scores)
    assert found.same and found.mean_kl is None and found.top1_tied is None
    assert not compared(scores, scores.mean() + 0 * scores).same
    assert not compared(scores, scores[::-1]).same


def test_divergence_decides_where_the_likely_choices_are_off():
    """Little on the whole, as most of the vocabulary stays."""
    one = np.full((30, 5000), -3.0) + RANDOM.normal(size=(30, 5000))
    one[:, 0], one[:, 1] = 12.0, 11.5
    other = one.copy()
    other[:, 1] += 1.2
    found = compared(one, other, tolerance=MOST)
    assert found.rms_difference < MOST / 8 and found.varying_difference < MOST / 3
    assert found.mean_kl > found.kl_allowed and not found.same


def test_the_top_choice_decides_but_for_ties():
    one = np.zeros((200, 8))
    one[:, :2] = 5.0, 4.9
    one += 0.001 * RANDOM.normal(size=one.shape)
    other = one.copy()
    other[:, 1] += 0.2
    found = compared(one, other)
    assert found.top1_agreement == 0.0 and found.top1_tied == 1.0 and found.same
    one[:, 1] = other[:, 1] = 0.0
    other[:3, [0, 1]] = other[:3, [1, 0]]  # at 3 of 200 positions, another choice
    assert compared(one, other).top1_tied == pytest.approx(0.985)
    assert not OutputComparison(
        "logits", "", 9, 1.0, 0.0, 0.0, 1.0, 0.0, MOST, top1_tied=0.985
    ).same  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["original", "protected", "both"])
def test_what_is_not_finite_is_named_and_never_the_same(bad, where):
    odd = LOGITS.copy()
    odd[3, 4] = bad
    pair = [odd if where in (who, "both") else LOGITS for who in ("original", "protected")]
    found = compared(*pair)
    assert not found.same
    assert found.not_finite == (("original", "protected") if where == "both" else (where,))


@pytest.mark.parametrize("what", ["logits", "pooler_output"])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_outputs_that_do_not_depend_on_the_input_are_known_as_such(what, noise):
    same = np.ones((40, 1)) * LOGITS[:1] + noise * RANDOM.normal(size=SHAPE)
    assert compared(same, same + noise, what=what, tolerance=1e-4).constant
    assert compared(same, same + noise, what=what, tolerance=1e-4).same
    assert not compared(same, same + 1, what=what, tolerance=1e-4).same
    assert not compared(LOGITS, LOGITS, what=what).constant


# The tolerance


def mixed(folder, **dtypes):
    """A Llama in float32 with some tensors in another dtype."""
    weights = llama_weights()
    for part, dtype in dtypes.items():
        weights |= {
            name: values.astype(llama_weights(dtype=dtype)[name].dtype)
            for name, values in weights.items()
            if part in name
        }
    return open_folder(save(folder, weights, {"model_type": "llama"}))


def test_the_tolerance_follows_from_all_numbers_and_is_capped(tmp_path):
    def of(name, **dtypes):
        return rounding_tolerance(mixed(tmp_path / name, **dtypes))

    assert of("float32") == EXACT_TOLERANCE
    assert of("narrow norm", norm="F8_E4M3") == EXACT_TOLERANCE
    assert of("all float8", weight="F8_E4M3") == EXACT_TOLERANCE  # no lock rounds it
    assert of("all bfloat16", weight="BF16") == MOST == 16 * 2.0**-8
    assert of("all float16", weight="F16") == 16 * 2.0**-11
    assert EXACT_TOLERANCE < of("norms in bfloat16", norm="BF16") < 0.15 * MOST
    assert 0.5 * MOST < of("layers in bfloat16", proj="BF16") < MOST
    assert of("wide", norm="F64", proj="BF16") < MOST


@pytest.mark.parametrize("narrow", ["original", "protected", "both"])
@pytest.mark.parametrize("wrong", ["another model", "zero"])
def test_one_narrow_tensor_opens_nothing(tmp_path, narrow, wrong):
    from unmergeable.verification.verify import verify

    one, two = llama(tmp_path / "one"), llama(tmp_path / "two", seed=1)
    for folder, who in ((one, "original"), (two, "protected")):
        weights = weights_of(folder)
        if who == "protected" and wrong == "zero":
            weights = {name: 0 * values for name, values in weights.items()}
        if narrow in (who, "both"):
            dtype = llama_weights(dtype="F8_E4M3")["model.norm.weight"].dtype
            weights["model.norm.weight"] = weights["model.norm.weight"].astype(dtype)
        write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
    report = verify(one, two)
    assert not report.same and report.outputs.tolerance == EXACT_TOLERANCE
