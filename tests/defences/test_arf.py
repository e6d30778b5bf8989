import pytest
import torch

from tests.training.small import LABELLED, LABELLED_HELD, base, run, weights
from unmergeable.errors import InputError
from unmergeable.training.load import Lora

RADIUS = 0.05
# Q, K, V and O by hand; of GPT-2's fused matrix, stored (in, out), the three thirds.
ATTENTION = {
    "llama": [
        (f"model.layers.{layer}.self_attn.{part}_proj.weight", None)
        for layer in range(2)
        for part in "qkvo"
    ],
    "gpt2": [
        (f"transformer.h.{layer}.attn.{name}.weight", part)
        for layer in range(2)
        for name, part in (("c_attn", 0), ("c_attn", 1), ("c_attn", 2), ("c_proj", None))
    ],
}


def distances(kind, folder):
    before, after = weights(base(kind)), weights(folder)
    found = []
    for name, third in ATTENTION[kind]:
        old, new = before[name], after[name]
        if third is not None:
            old, new = (tensor.chunk(3, dim=1)[third] for tensor in (old, new))
        found.append(float((new - old).norm() / old.norm()))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_ends_at_the_radius(tmp_path, kind, seed):
    # So slow that the task alone does not move every matrix that far.
    common = {"rate": 1.5e-4, "steps": 60, "seed": seed}
    plain = run(tmp_path / "plain", kind, **common)
    assert min(distances(kind, plain.out)) < 0.9 * RADIUS
    held = run(tmp_path / "held", kind, defence="arf", **common)
    assert min(distances(kind, held.out)) > 0.98 * RADIUS
    assert max(distances(kind, held.out)) < 3 * RADIUS  # the term ends there
    measured = held.document["measured"]
    assert measured["matrices"] == len(ATTENTION[kind])
    assert measured["least_distance"] == pytest.approx(min(distances(kind, held.out)), rel=1e-3)


def test_the_printed_sign_does_nothing_below_the_radius_and_runs_away_above(tmp_path):
    printed = {"hinge": "printed"}
    plain = run(tmp_path / "plain", rate=3e-4, steps=10)
    below = run(tmp_path / "below", defence="arf", settings=printed, rate=3e-4, steps=10)
    assert all(t.equal(weights(plain.out)[name]) for name, t in weights(below.out).items())
    far = {**printed, "radius": 0.001}
    above = run(tmp_path / "above", defence="arf", settings=far, rate=3e-4, steps=10)
    pairs = zip(distances("llama", above.out), distances("llama", plain.out), strict=True)
    assert all(farther > 1.2 * near for farther, near in pairs)


def test_an_adapter_is_refused_with_the_reason(tmp_path):
    with pytest.raises(InputError, match="does not cancel against a frozen base"):
        run(tmp_path / "out", defence="arf", lora=Lora())


def test_an_encoder_under_a_new_classifier_is_found_by_its_declaration(tmp_path):
    report = run(
        tmp_path / "out", "bert", LABELLED, LABELLED_HELD, 5, defence="arf", settings={"radius": 0}
    )
    assert report.document["measured"]["matrices"] == 8
    assert torch.isfinite(torch.tensor(report.document["measured"]["least_distance"]))
