"""Runs as wholes: what is written, accumulated, resumed, refused and stopped."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.evaluation.living import model, save
from tests.training.small import DATA, HELD, LABELLED, LABELLED_HELD, base, run, weights
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.evaluation.heads import Head
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock
from unmergeable.training.checkpoints import work_folder
from unmergeable.training.data import Items, read_items
from unmergeable.training.load import Lora


def gap(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_model_folder_is_the_bases_with_other_weights(tmp_path):
    start = save(model().to(torch.bfloat16), tmp_path / "base")
    report = run(tmp_path / "out", steps=3, rate=1e-2)
    assert gap(weights(report.out), weights(base())) > 1e-3
    for folder, of in ((report.out, base()), (tmp_path / "low", start)):
        if folder.name == "low":
            from unmergeable.training.config import TrainConfig
            from unmergeable.training.run import train

            config = TrainConfig(steps=3, rate=1e-2, end=False, precision="float32")
            train(start, folder, DATA, validation=HELD, config=config)
        kinds = []
        for one in (folder, of):
            with safe_open(one / "model.safetensors", "pt") as file:
                kinds.append([(name, file.get_slice(name).get_dtype()) for name in file.keys()])  # noqa: SIM118 (no mapping)
        assert kinds[0] == kinds[1]
        assert (folder / "config.json").read_bytes() == (of / "config.json").read_bytes()
        assert (folder / "tokenizer.json").read_bytes() == (of / "tokenizer.json").read_bytes()
        AutoModelForCausalLM.from_pretrained(folder)
    assert not work_folder(report.out).exists()


def test_the_manifest_names_the_defence_and_a_lock_goes_on_top(tmp_path):
    report = run(tmp_path / "out", steps=2, defence="trap2", settings={"strength": 0.5})
    (link,) = read_manifest(report.out).chain
    assert (link.defence, link.lasting) == ("trap2", True)
    assert link.settings["strength"] == 0.5
    assert link.measured["validation"]["loss"] > 0
    key = Key(bytes(32))
    protect(report.out, tmp_path / "locked", key)
    assert read_manifest(tmp_path / "locked").title == "trap2+lock"
    unlock(tmp_path / "locked", tmp_path / "back", key)
    assert gap(weights(tmp_path / "back"), weights(report.out)) == 0
    plain = run(tmp_path / "plain", steps=2, defence="none")
    assert not (plain.out / "unmergeable.json").exists()


def test_the_history_is_told(tmp_path):
    report = run(tmp_path / "out", steps=4, every=2, defence="trap2")
    document = json.loads((report.out / "training.json").read_text())
    assert document["defence"] == "trap2" and document["title"].startswith("Trap²")
    assert [row["step"] for row in document["history"] if "task_loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in document["curves"]] == [0, 2, 4]
    assert document["processes"] == [{"process": 0, "items": 32}]
    with Image.open(report.out / "training.png") as image:
        assert image.size[0] > 600
    text = (report.out / "training.json").read_text()
    assert str(tmp_path) not in text  # nobody's folders are published


@pytest.mark.parametrize("defence", ["none", "trap2", "arf", "mergeguard"])
def test_two_passes_of_half_a_batch_are_one_of_a_whole(tmp_path, defence):
    settings = {"touched": 0} if defence == "mergeguard" else {}
    common = {"defence": defence, "settings": settings, "steps": 5, "rate": 1e-3}
    whole = run(tmp_path / "whole", batch=16, **common)
    halves = run(tmp_path / "halves", batch=8, accumulate=2, **common)
    quarter = run(tmp_path / "quarter", batch=8, **common)
    start = weights(base())
    moved = gap(weights(whole.out), start)
    assert gap(weights(whole.out), weights(halves.out)) < 0.02 * moved
    assert gap(weights(whole.out), weights(quarter.out)) > 0.1 * moved


class Killed(BaseException):
    """Not an Exception: nothing that tidies up after one may run."""


def killed_at(step):
    """Progress that stops a run after this step."""

    def progress(status):
        if status.done == step:
            raise Killed

    return progress


@pytest.mark.parametrize(
    ("defence", "lora"), [("none", None), ("trap2", None), ("trap2", Lora(4, dropout=0.2))]
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, defence, lora):
    common = {"defence": defence, "lora": lora, "steps": 12, "every": 4}
    kind = "gpt2 with dropout"
    whole = run(tmp_path / "whole", kind, **common)
    with pytest.raises(Killed):
        run(tmp_path / "torn", kind, progress=killed_at(7), **common)
    assert not (tmp_path / "torn").exists()
    with pytest.raises(InputError, match="an earlier run left checkpoints"):
        run(tmp_path / "torn", kind, **common)
    torn = run(tmp_path / "torn", kind, resume=True, **common)
    assert torn.document["processes"][0]["items"] == 8 * 8  # eight steps from step 4 on
    one, other = (r.document["measured"]["validation"]["loss"] for r in (whole, torn))
    assert other == pytest.approx(one, abs=1e-6)
    steps = [row["step"] for row in torn.document["history"] if "task_loss" in row]
    assert steps == list(range(1, 13))


def test_only_the_same_run_is_resumed(tmp_path):
    for name, lora in (("full", None), ("lora", Lora(4))):
        with pytest.raises(Killed):
            run(tmp_path / name, steps=4, every=2, lora=lora, progress=killed_at(3))
        same = {"steps": 4, "every": 2, "lora": lora, "resume": True}
        with pytest.raises(InputError, match=r"another run: base was .*model.safetensors"):
            run(tmp_path / name, "gpt2", **same)
        for change, match in (
            ({"rate": 1.0}, "config was"),
            ({"defence": "trap2"}, "defence was 'none' and is now 'trap2'"),
            ({"validation": DATA}, "validation was"),
        ):
            with pytest.raises(InputError, match=match):
                run(tmp_path / name, **{**same, **change})
        assert run(tmp_path / name, **same).document["steps"] == 4


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        run(tmp_path / "out", resume=True)


def test_an_adapter_is_no_base(tmp_path):
    adapter = run(tmp_path / "adapter", steps=1, lora=Lora(2)).out
    from unmergeable.training.run import train

    with pytest.raises(InputError, match="is an adapter, not a model"):
        train(adapter, tmp_path / "out", DATA)


def test_an_output_that_is_there_is_refused_before_training(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        run(tmp_path / "out")


def test_a_run_that_diverges_stops_and_names_its_last_good_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"diverged: at step (\d+) the task's loss is") as error:
        run(
            tmp_path / "out",
            steps=40,
            every=2,
            rate=0.1,
            defence="trap2",
            settings={"strength": 50, "weighting": "none"},
        )
    assert not (tmp_path / "out").exists()
    kept = work_folder(tmp_path / "out")
    (name,) = [p for p in kept.glob("checkpoint-*") if str(p) in str(error.value)]
    assert int(name.name.partition("-")[2]) < int(
        str(error.value).partition("at step ")[2].partition(" ")[0]
    )
    tensors = weights(name)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_weights_that_a_step_ruined_are_no_checkpoint(tmp_path):
    """The rate ruins them in the second step; the third's loss is the first to show it."""
    with pytest.raises(InputError, match="diverged: at step 3 ") as error:
        run(tmp_path / "out", steps=40, every=1, rate=300.0)
    (kept,) = work_folder(tmp_path / "out").glob("checkpoint-*")
    assert kept.name == "checkpoint-1" and str(kept) in str(error.value)


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path, monkeypatch):
    from unmergeable.defences.training_defence import NoDefence

    def broken(self, one):
        return one.nominal * float("nan") if one.step == 2 else None

    monkeypatch.setattr(NoDefence, "extra_loss", broken)
    with pytest.raises(InputError, match=r"at step 3 .* the defence's nan.*checkpoint-2"):
        run(tmp_path / "out", steps=6, every=1)


def test_worse_validation_ends_the_run_at_its_best(tmp_path):
    """Labels of the data are the opposite of those of validation."""
    flipped = Items(
        "completion",
        tuple((prompt, "animal" if word == "plant" else "plant") for prompt, word in DATA.rows),
    )
    report = run(tmp_path / "out", data=flipped, steps=40, every=2, patience=3, rate=3e-3, batch=16)
    assert report.document["steps"] == 8  # the first is the best, and three are worse
    assert "stopped at step 8" in report.document["stopped"]
    losses = {r["step"]: r["eval_loss"] for r in report.document["history"] if "eval_loss" in r}
    assert report.document["measured"]["validation"]["loss"] == losses[8] < 0.9 * losses[6]
    short = run(tmp_path / "short", data=flipped, steps=40, every=2, patience=0, batch=16)
    assert short.document["steps"] == 40


@pytest.fixture
def head(tmp_path):
    torch.manual_seed(3)
    save_file({"weight": torch.randn(2, 32), "bias": torch.zeros(2)}, tmp_path / "head.st")
    return Head(tmp_path / "head.st")


@pytest.mark.parametrize("lora", [None, Lora(8, 16, 0.0, "all")], ids=["full", "lora"])
def test_under_a_frozen_head_the_trunk_alone_is_trained(tmp_path, head, lora):
    report = run(
        tmp_path / "out",
        "bert",
        LABELLED,
        LABELLED_HELD,
        40,
        head=head,
        batch=16,
        lora=lora,
        rate=2e-2 if lora else 3e-3,
    )
    measured = report.document["measured"]
    assert measured["validation"]["loss"] < 0.6 * measured["validation_base"]["loss"]
    if lora is None:
        before, after = weights(base("bert")), weights(report.out)
        assert before.keys() == after.keys()
        same = {name for name in before if before[name].equal(after[name])}
        assert same == {"pooler.dense.weight", "pooler.dense.bias"}  # the head does not see it
        AutoModel.from_pretrained(report.out)


def test_without_a_head_a_new_classifier_is_trained_and_told_of(tmp_path):
    report = run(tmp_path / "out", "bert", LABELLED, LABELLED_HELD, 60, 5e-3, batch=16)
    assert "classifier that the base lacks" in report.notes[0]
    learned = AutoModelForSequenceClassification.from_pretrained(report.out)
    assert learned.config.num_labels == 2
    assert report.document["measured"]["validation"]["accuracy"] > 0.8
    again = run(tmp_path / "again", "bert", LABELLED, LABELLED_HELD, 1, defence="trap2")
    assert again.document["curves"]


@pytest.mark.parametrize("lora", [None, Lora(2)], ids=["full", "lora"])
def test_a_vision_model_learns_a_folder_of_images_under_a_head(tmp_path, head, lora):
    """Also: tensors that transformers renames as it loads them are written by their own names."""
    for name, colour in (("blue", (0, 0, 250)), ("red", (250, 0, 0))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (28, 28), tuple(max(0, c - 9 * number) for c in colour)).save(
                tmp_path / "images" / name / f"{number}.png"
            )
    items = read_items(tmp_path / "images")
    report = run(
        tmp_path / "out", "dinov2", items, items, 12, head=head, lora=lora, rate=1e-2, batch=4
    )
    assert report.document["measured"]["validation"]["accuracy"] == 1
    if lora is None:
        before, after = weights(base("dinov2")), weights(report.out)
        assert before.keys() == after.keys()
        changed = {name for name in before if not before[name].equal(after[name])}
        assert "encoder.layer.0.attention.attention.query.weight" in changed
        assert before.keys() - changed == {"embeddings.mask_token"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "bert"}, "no causal language model"),
        ({"defence": "wall"}, "no training defence 'wall'; there is none, trap2, arf, mergeguard"),
        ({"validation": LABELLED}, "of kind 'label', the data of 'completion'"),
        (
            {"data": Items("label", (("a", 5),)), "validation": LABELLED, "head": True},
            "has 2 classes, and the data have 6",
        ),
        ({"head": True}, "a head answers with classes"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, head, options, match):
    if options.get("head"):
        options = {**options, "head": head, "kind": "bert"}
    before = set(tmp_path.iterdir())
    with pytest.raises((InputError, UnsupportedError), match=match):
        run(tmp_path / "out", **{"steps": 1, **options})
    assert set(tmp_path.iterdir()) == before
