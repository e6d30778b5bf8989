import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.small import base, held_loss, run, weights
from unmergeable.defences.registry import DEFENCES
from unmergeable.defences.trap2 import Trap2
from unmergeable.errors import InputError
from unmergeable.merging.adapters import read_adapter
from unmergeable.training.load import Lora

# One side of the ray, and strong: so a run of seconds shows what thousands of steps do.
STRONG = {"strength": 1, "s_max": 1, "cap": 6, "weighting": "none"}


def changes(report, lora):
    """What training added to each of the base's tensors, read from the files it left."""
    start = weights(base())
    if not lora:
        return {name: tensor - start[name] for name, tensor in weights(report.out).items()}
    return {name: pair.delta for name, pair in read_adapter(report.out).items()}


def loss_at(report, lora, s):
    model = AutoModelForCausalLM.from_pretrained(base())
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in changes(report, lora).items():
            state[name] += s * change
    return held_loss(model)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("lora", "rate"),
    [(None, 3e-3), (Lora(8, 16, 0.0, "all"), 1e-2)],
    ids=["full", "lora"],
)
def test_the_loss_is_high_where_a_merge_scales_the_change(tmp_path, lora, rate, seed):
    common = {"lora": lora, "seed": seed, "rate": rate, "steps": 50, "batch": 16}
    open_ = run(tmp_path / "open", **common)
    trap = run(tmp_path / "trap", defence="trap2", settings=STRONG, **common)
    half, whole = (loss_at(trap, lora, s) for s in (0.5, 1))
    assert half > 1.4 * whole
    assert half > 1.4 * loss_at(open_, lora, 0.5)
    # The curve that training reports is the one that the files have.
    curve = trap.document["curves"][-1]["loss"]
    assert curve["0.5"] == pytest.approx(half, rel=1e-3)
    assert curve["1"] == pytest.approx(whole, rel=1e-3)
    assert trap.document["measured"]["validation"]["loss"] == curve["1"]


class AtOne(Trap2):
    """The paper's loss with s held at 1, where both losses are one."""

    seen = ()

    def scale(self, step):
        return 1.0

    def extra_loss(self, one):
        loss = one.again(self._path.at(1.0))
        type(self).seen += ((one.nominal.item(), loss.item()),)
        return 0.0 * loss


@pytest.mark.parametrize("lora", [None, Lora(4, 4, 0.5)], ids=["full", "lora"])
def test_both_passes_drop_the_same(tmp_path, monkeypatch, lora):
    monkeypatch.setattr(AtOne, "seen", ())
    monkeypatch.setitem(DEFENCES, "at-one", AtOne)
    report = run(tmp_path / "out", "gpt2 with dropout", defence="at-one", lora=lora, steps=6)
    assert len(AtOne.seen) == 6
    assert all(first == second for first, second in AtOne.seen)
    if lora is None:  # and the second pass leaves the stream of random numbers where it was
        plain = run(tmp_path / "plain", "gpt2 with dropout", steps=6)
        other = weights(plain.out)
        assert all(tensor.equal(other[name]) for name, tensor in weights(report.out).items())


def test_no_strength_is_the_ordinary_fine_tune(tmp_path):
    off = run(tmp_path / "off", defence="trap2", settings={"strength": "0"}, steps=5)
    plain = run(tmp_path / "plain", steps=5)
    one, other = weights(off.out), weights(plain.out)
    assert all(torch.allclose(tensor, other[name], atol=1e-7) for name, tensor in one.items())


def test_scales_are_drawn_evenly_on_both_sides_and_never_near_1():
    trap = Trap2()
    trap._seed = 0
    drawn = torch.tensor([trap.scale(step) for step in range(4000)])
    assert drawn.min() >= 0.05 and drawn.max() <= 2.0
    assert not ((drawn > 0.95) & (drawn < 1.05)).any()
    assert drawn.min() < 0.08 and drawn.max() > 1.97
    assert float((drawn < 1).float().mean()) == pytest.approx(0.9 / 1.85, abs=0.03)
    assert trap.scale(7) == trap.scale(7)  # a resumed run draws what it would have drawn


def test_defaults_follow_the_kind_of_model(tmp_path):
    full = run(tmp_path / "full", defence="trap2", steps=1)
    lora = run(tmp_path / "lora", defence="trap2", steps=1, lora=Lora(2))
    assert full.document["settings"]["strength"] == 0.005
    assert lora.document["settings"]["strength"] == 0.001
    assert full.document["settings"]["weighting"] == "inv_sqrt"


def test_a_gap_that_leaves_no_scale_is_refused(tmp_path):
    settings = {"s_min": 0.9, "s_max": 1.1, "gap": 0.2}
    with pytest.raises(InputError, match="no scale lies in"):
        run(tmp_path / "out", defence="trap2", settings=settings)
