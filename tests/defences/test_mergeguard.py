import pytest
import torch

from tests.training.small import base, run, weights
from unmergeable.errors import InputError
from unmergeable.training.load import Lora


def runs(tmp_path, seed=0, **settings):
    """The same training with stage 2 touching nothing, and as asked."""
    common = {"defence": "mergeguard", "seed": seed}
    off = run(tmp_path / "off", settings={**settings, "touched": 0}, **common)
    on = run(tmp_path / "on", settings=settings, **common)
    return weights(base()), weights(off.out), weights(on.out), on.document["measured"]


@pytest.mark.parametrize(("reading", "seed"), [("reset", 0), ("reset", 1), ("flip", 2)])
def test_stage_2_takes_back_the_largest_changes_of_what_may_be_touched(tmp_path, reading, seed):
    start, before, after, measured = runs(tmp_path, seed, reading=reading)
    (critical,) = measured["critical_layers"]  # a tenth of two layers, rounded up
    free = [
        name
        for name, tensor in start.items()
        if name.startswith(f"model.layers.{1 - critical}.") and tensor.ndim == 2
    ]
    assert len(free) == 7
    for name in start.keys() - set(free):
        assert after[name].equal(before[name]), name
    tau, moved, same, mirrored = [], [], [], []
    for name in free:
        changed = after[name] != before[name]
        moved.append(changed.flatten())
        tau.append((before[name] - start[name]).abs().flatten())
        same.append(after[name][changed] == start[name][changed])
        opposite = start[name] - (before[name] - start[name])
        mirrored.append((after[name] - opposite)[changed].abs())
    tau, moved = torch.cat(tau), torch.cat(moved)
    assert int(moved.sum()) == measured["touched"] == round(0.1 * len(tau))
    assert tau[moved].min() >= tau[~moved].max()
    if reading == "reset":
        assert torch.cat(same).all()
    else:
        assert torch.cat(mirrored).max() < 1e-6
        assert not torch.cat(same).any()


def test_the_critical_layer_is_the_one_whose_change_matters_most(tmp_path):
    start, before, _, measured = runs(tmp_path)
    from transformers import AutoModelForCausalLM

    from tests.training.small import HELD, VOCABULARY, held_loss, runner

    def loss(masked):
        model = AutoModelForCausalLM.from_pretrained(base())
        state = {
            name: start[name]
            if name.startswith(f"model.layers.{masked}.") and tensor.ndim == 2
            else tensor
            for name, tensor in before.items()
        }
        model.load_state_dict(state, strict=False)
        model.tie_weights()
        runs = runner(model)
        right = 0
        for prompt, word in HELD.rows:
            ids = torch.tensor([runs.tokenizer(prompt)["input_ids"]])
            said = int(runs.model(input_ids=ids).logits[0, -1].argmax())
            right += said == VOCABULARY.index(word)
        return right / len(HELD.rows), held_loss(model)

    accuracy, whole = loss(None)
    costs = measured["cost_of_masking_a_layer"]
    for layer in (0, 1):
        masked = loss(layer)
        assert costs[str(layer)]["loss"] == pytest.approx(masked[1] - whole, abs=1e-4)
        assert costs[str(layer)]["accuracy"] == pytest.approx(accuracy - masked[0], abs=1e-6)
    order = sorted((0, 1), key=lambda n: (costs[str(n)]["accuracy"], costs[str(n)]["loss"]))
    assert measured["critical_layers"] == [order[-1]]


def test_the_printed_penalty_shrinks_the_weights_and_the_other_their_change(tmp_path):
    start = weights(base())

    def sizes(**settings):
        found = weights(
            run(
                tmp_path / "_".join(settings.values()),
                defence="mergeguard",
                settings={**settings, "alpha": 0.1, "touched": 0},
            ).out
        )
        theta = sum(float(t.square().sum()) for t in found.values())
        tau = sum(float((t - start[name]).square().sum()) for name, t in found.items())
        return theta, tau

    plain = weights(run(tmp_path / "plain").out)
    theta = sum(float(t.square().sum()) for t in plain.values())
    tau = sum(float((t - start[name]).square().sum()) for name, t in plain.items())
    assert sizes(penalty="theta")[0] < 0.9 * theta
    assert sizes(penalty="tau")[1] < 0.7 * tau


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lora": Lora()}, "no adapter of low rank"),
        ({"settings": {"critical": 0.6}}, "leaves all 2 layers alone"),
        ({"settings": {"reading": "negate"}}, "there is reset, flip"),
        ({"settings": {"alpha": "much"}}, "not a number"),
        ({"settings": {"touched": 2}}, r"must lie in \[0, 1\]"),
        ({"settings": {"beta": 1}}, "no setting 'beta'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        run(tmp_path / "out", defence="mergeguard", **options)
    assert not (tmp_path / "out").exists()
