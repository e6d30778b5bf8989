"""Ways to cheat an audit (docs/cheating.md), each with what it gets: none is ever "holds"."""

import random
from dataclasses import replace

import pytest
import torch
import yaml

from tests.auditing.cheats import TINY, release, run
from tests.auditing.scene import scene, task_file
from tests.evaluation.living import model, save
from unmergeable.attacks.ladder import attacks
from unmergeable.auditing import ensemble, plan
from unmergeable.auditing import grid as module
from unmergeable.errors import InputError

FIRST = "model.layers.0.input_layernorm.weight"


def dropped(tensors):
    del tensors[FIRST]


def renamed(tensors):
    tensors["model.layers.0.norm.weight"] = tensors.pop(FIRST)


def shorter(tensors):
    tensors[FIRST] = tensors[FIRST][:-8].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dropped, FIRST),
        (renamed, FIRST),
        (shorter, rf"{FIRST}.*\(24,\).*\(32,\)"),
    ],
)
def test_tensors_that_are_not_the_bases_are_refused(tiny, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(tiny, tmp_path, protected=release(tmp_path, change))


def test_a_release_that_is_the_base_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="the protected model alone does the expert's task"):
        run(tiny, tmp_path, protected=scene()["base"])


def test_random_weights_are_refused(tiny, tmp_path):
    save(model(seed=7), tmp_path / "random")
    with pytest.raises(InputError, match="the protected model alone does the expert's task"):
        run(tiny, tmp_path, protected=tmp_path / "random")


def test_a_release_that_fails_the_task_is_refused(tiny, tmp_path):
    def ruined(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"].mul_(-3)
        tensors["model.layers.1.self_attn.o_proj.weight"].mul_(-3)

    with pytest.raises(InputError, match="the protected model alone does the expert's task"):
        run(tiny, tmp_path, protected=release(tmp_path, ruined))


def test_a_peer_that_is_the_base_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="every expert is better than the base on its own task"):
        run(tiny, tmp_path, peer=scene()["base"])


def edited(folder, change):
    """A task file whose JSONL files were changed, all lines of each."""
    path = task_file(folder)
    for entry in yaml.safe_load(path.read_text())["tasks"]:
        for split in ("validation", "test"):
            file = folder / entry[split]
            file.write_text("\n".join(change(file.read_text().splitlines())))
    return path


def shuffled(lines):
    labels = [line[-2] for line in lines]
    random.Random(0).shuffle(labels)
    return [f"{line[:-2]}{label}}}" for line, label in zip(lines, labels, strict=True)]


def test_shuffled_labels_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="a positive control failed"):
        run(tiny, tmp_path, tasks=edited(tmp_path, shuffled))


def flags(document):
    return {flag["name"] for flag in document["flags"]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_is_broken_all_the_same(tiny, tmp_path, dtype):
    def cast(tensors):
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    document = run(tiny, tmp_path, protected=release(tmp_path, cast, "protected"))
    assert document["verdict"]["answer"] == "broken"


def test_a_model_that_is_not_protected_is_broken_by_a_plain_merge(tiny, tmp_path):
    document = run(tiny, tmp_path, protected=scene()["original"])
    assert document["verdict"]["level"] == 0
    assert document["verdict"]["sentence"].startswith("Not protected")


def gains(tensors):
    """Norm gains multiplied, and what reads them divided: the function stays."""
    draw = torch.Generator().manual_seed(1)
    for layer in range(2):
        at = f"model.layers.{layer}."
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            gain = tensors[f"{at}{norm}.weight"]
            by = 2.0 ** torch.randn(gain.shape, generator=draw).mul(4).round()
            by *= torch.randn(gain.shape, generator=draw).sign()
            gain *= by
            for reader in readers:
                tensors[f"{at}{reader}.weight"] /= by


def test_moved_gains_are_undone_or_leave_it_undecided(tiny, tmp_path):
    document = run(tiny, tmp_path, protected=release(tmp_path, gains))
    verdict = document["verdict"]
    near = document["distances"]["of"]["aligned model"] < 0.3
    assert verdict["answer"] == ("broken" if near else "undecided"), verdict["sentence"]
    if not near:
        assert any("after alignment the release is" in reason for reason in verdict["reasons"])
        assert "aligned model far from the base" in flags(document)


def crashing(monkeypatch, error):
    """Makes alignment of whatever is released fail; that of the control's own lock works."""

    def crash(*_, **__):
        raise error

    monkeypatch.setattr(module, "align_tensors", crash)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by 0"), AssertionError("no"), InputError("?")]
)
def test_a_release_that_crashes_the_fit_is_undecided(tiny, tmp_path, monkeypatch, error):
    crashing(monkeypatch, error)
    reset = attacks()["reset"]
    monkeypatch.setattr(plan, "attacks", lambda: {"reset": reset})
    monkeypatch.setitem(ensemble.PRESETS, "tiny", replace(TINY, attacks=("reset",)))
    document = run(tiny, tmp_path, protected=release(tmp_path, gains))
    verdict = document["verdict"]
    assert verdict["answer"] == "undecided"
    for title in ("alignment", reset.title):
        assert f"{title}, with task_arithmetic, failed" in verdict["reasons"]
    assert any("alignment failed on this release" in reason for reason in verdict["reasons"])
    assert {cell["status"] for cell in document["cells"] if cell["attack"] != "none"} == {"failed"}
    assert "aligned model" not in document["distances"]["of"]


def test_merges_that_are_not_finite_are_no_failure_of_the_thief(tiny, tmp_path, monkeypatch):
    """They answer nothing, and so are worth nothing: that says nothing of the release."""
    real = module.align_tensors

    def overflowing(*models, **options):
        aligned = real(*models, **options)
        aligned.tensors["model.norm.weight"][:] = 0xFF  # NaN
        return aligned

    monkeypatch.setattr(module, "align_tensors", overflowing)
    monkeypatch.setattr(module, "tamed", lambda weights, base: (weights, 0.0))
    document = run(tiny, tmp_path, protected=release(tmp_path, gains))
    assert document["verdict"]["answer"] == "undecided"
    assert "alignment, with task_arithmetic, failed" in document["verdict"]["reasons"]


def test_items_that_are_few_or_repeated_are_flagged_and_keep_it_undecided(
    tiny, tmp_path, monkeypatch
):
    """Forty-five items, four times each: intervals would be as narrow as those of 180."""
    crashing(monkeypatch, ValueError("no"))
    path = edited(tmp_path, lambda lines: lines[:45] * 4)
    document = run(tiny, tmp_path, tasks=path, protected=release(tmp_path, gains))
    assert {"few test items", "repeated test items"} <= flags(document)
    assert "give each test item once" in document["verdict"]["needs"]
    assert document["tasks"][0]["items"]["test"] == 180
    assert document["tasks"][0]["items"]["distinct"] <= 45


def test_a_part_of_the_ensemble_and_no_key_leave_it_undecided(tiny, tmp_path, monkeypatch):
    crashing(monkeypatch, ValueError("no"))
    locked = release(tmp_path, gains, "protected")
    needs = run(tiny, tmp_path, protected=locked)["verdict"]["needs"]
    assert "give the owner's key with --key" in needs
    assert not any("--quick" in need for need in needs)
    monkeypatch.setattr(ensemble.Preset, "complete", False)
    needs = run(tiny, tmp_path, protected=locked)["verdict"]["needs"]
    assert "run the standard ensemble, without --quick" in needs


@pytest.mark.parametrize("preset", ensemble.PRESETS.values(), ids=ensemble.PRESETS)
def test_the_standard_preset_alone_is_complete(preset):
    assert preset.complete is (preset.name == "standard")
