"""A private base: the same function in unrelated weights, from the key, resumed, or refused."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import add_tokenizer, llama, weights_of, with_transformers
from unmergeable.architectures.layout import Layout
from unmergeable.auditing.audit_inputs import _opened
from unmergeable.checkpoint.companions import RELOCATION
from unmergeable.checkpoint.folder import open_folder
from unmergeable.cli import main
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.keys.key import Key, keygen
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import protect
from unmergeable.relocation import relocate as module
from unmergeable.relocation.disturbance import Disturbance
from unmergeable.relocation.regrowth import Growth, Regrowth, _distance
from unmergeable.relocation.relocate import relocate
from unmergeable.relocation.texts import corpus, random_corpus

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
SHORT = Growth(block_steps=2, steps=4, disturbance=0.5, stops=2)
LONG = Growth(block_steps=40, steps=120, disturbance=0.0, block_rate=1e-2, rate=5e-3)


def lines(count=2600):
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(50)}" for _ in range(draw.randint(3, 9))) + f" w{n % 50}"
            for n in range(count)]  # fmt: skip


TEXTS = tuple(lines())


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {
        "bert": add_tokenizer(with_transformers(folder / "bert", "bert")),
        "llama": add_tokenizer(llama(folder / "llama")),
    }


@pytest.fixture(autouse=True)
def no_bound(monkeypatch):
    """Few steps lose more than people may lose."""
    monkeypatch.setattr(module, "BOUND", 100.0)


def idle(just, what):
    """Nobody counts."""


def regrowth(folder, growth=SHORT, seed=0):
    runner, opened = ModelRunner.of(folder), open_folder(folder)
    state = dict(Weights.read(folder).tensors)
    layout = Layout.of_folder(opened)
    return Regrowth(
        runner, layout, state, corpus(runner, TEXTS[200:600]), corpus(runner, TEXTS[:200]),
        growth, seed,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_is_grown_does_more_of_what_the_base_does_than_what_was_destroyed(kind, bases):
    work = regrowth(bases[kind], LONG)
    destroyed = work.destroyed()
    student, errors = destroyed, [work.error(destroyed)]
    for _, tensors in work.grow(student, idle):
        student = {**student, **tensors}
    errors.append(work.error(student))
    errors.append(work.error(work.finish(student, idle)))
    assert work.error(work.base) == 0
    assert errors[2] < 0.6 * errors[0] and errors[2] < errors[1] < errors[0], errors


@pytest.mark.parametrize(
    ("kind", "mixed", "kept"),
    [
        ("bert", ["attention.self.", "intermediate.dense"], ["output.dense", "LayerNorm"]),
        (
            "llama",
            ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
            ["o_proj", "down_proj", "norm"],
        ),
    ],
)
def test_what_reads_the_stream_is_mixed_and_all_else_stays(kind, mixed, kept, bases):
    work = regrowth(bases[kind])
    made = work.destroyed()
    for name, old in work.base.items():
        new = made[name]
        inside = name in work.trained
        if inside and any(part in name for part in mixed):
            assert not torch.equal(old, new)
            if new.ndim == 2:
                lengths = new.norm(dim=1)
                assert torch.allclose(lengths, old.norm(dim=1).mean().expand_as(lengths))
                alike = (old * new).sum() / (old.norm() * new.norm())
                assert abs(alike) < 0.3
                rank = np.linalg.matrix_rank(torch.cat([old, new]).numpy(), tol=1e-4)
                assert rank == np.linalg.matrix_rank(old.numpy(), tol=1e-4)
        else:
            assert torch.equal(old, new), name
    assert any(part in name for name in work.trained for part in kept)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_key_decides_what_is_made(kind, bases, tmp_path):
    made = {}
    for name, key in (("one", KEY), ("two", KEY), ("three", OTHER)):
        report = relocate(bases[kind], tmp_path / name, TEXTS, key, effort=SHORT)
        made[name] = weights_of(tmp_path / name)
        assert report.distance > 0.5 and report.texts < len(TEXTS)
    base = weights_of(bases[kind])
    layers = [name for name in base if ".layers." in name or ".layer." in name]
    assert list(base) == list(made["one"])
    for name, tensor in made["one"].items():
        assert np.array_equal(tensor, made["two"][name])
        assert (name in layers) != np.array_equal(tensor, base[name]) or "norm" in name.lower()
    assert any(not np.array_equal(made["one"][n], made["three"][n]) for n in layers)
    record = json.loads((tmp_path / "one" / RELOCATION).read_text())
    assert record["key"] == KEY.id and "derive" not in record


def test_a_run_that_was_interrupted_goes_on_with_the_block_in_work(bases, tmp_path):
    class StopError(Exception):
        pass

    seen = []

    def stop(status):
        seen.append(status)
        if status.what == "growing layer 1":
            raise StopError

    with pytest.raises(StopError):
        relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, effort=SHORT, progress=stop)
    assert not (tmp_path / "out").exists()
    again = []
    relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, effort=SHORT, progress=again.append)
    relocate(bases["bert"], tmp_path / "whole", TEXTS, KEY, effort=SHORT)
    assert "growing layer 0" not in {status.what for status in again}
    assert again[-1].done == again[-1].total == 2 * 2 + 4
    one, two = weights_of(tmp_path / "out"), weights_of(tmp_path / "whole")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_blocks_of_another_run_are_not_taken(bases, tmp_path):
    def stop(status):
        if status.what == "growing layer 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relocate(bases["bert"], tmp_path / "out", TEXTS, OTHER, effort=SHORT, progress=stop)
    told = []
    relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, effort=SHORT, progress=told.append)
    assert told[0].what == "growing layer 0"


def test_what_cannot_be_grown_is_refused(bases, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="40 texts cannot hold"):
        relocate(bases["bert"], tmp_path / "out", TEXTS[:40], KEY)
    with pytest.raises(InputError, match="effort 'much' is unknown: use low, medium, high"):
        relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, effort="much")
    with pytest.raises(InputError, match="is a folder"):
        relocate(bases["bert"], tmp_path / "out", tmp_path, KEY)
    with pytest.raises(InputError, match="cannot read the data"):
        relocate(bases["bert"], tmp_path / "out", tmp_path / "none.txt", KEY)
    vit = with_transformers(tmp_path / "vit", "vit")
    with pytest.raises(InputError, match="reads no text"):
        relocate(vit, tmp_path / "out", TEXTS, KEY)
    config = json.loads((bases["bert"] / "config.json").read_text())
    other = with_transformers(tmp_path / "other", "bert")
    (other / "config.json").write_text(json.dumps({**config, "model_type": "unheard"}))
    with pytest.raises(UnsupportedError):
        relocate(other, tmp_path / "out", TEXTS, KEY)
    monkeypatch.setattr(module, "BOUND", 1e-6)
    with pytest.raises(InputError, match="lost the public one's function"):
        relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, effort=SHORT)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def private(bases, tmp_path_factory):
    out = tmp_path_factory.mktemp("private") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BOUND", 100.0)
        relocate(bases["bert"], out, TEXTS, KEY, effort=SHORT)
    return out


def tuned(folder, out, size=0.02, outside=0.0):
    """A fine-tune of a base, by hand; `outside` is of what lies outside the layers."""
    shutil.copytree(folder, out)
    weights, draw = load_file(out / "model.safetensors"), torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        far = size if ".layer." in name else outside
        weights[name] = tensor + far * torch.randn(tensor.shape, generator=draw)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_an_expert_is_carried_over_to_a_private_base(bases, private, tmp_path):
    expert = tuned(bases["bert"], tmp_path / "expert", outside=0.001)
    told = []
    report = relocate(
        private, tmp_path / "out", TEXTS, KEY, expert=expert, effort=LONG, progress=told.append
    )
    made, old, base = map(weights_of, (tmp_path / "out", expert, private))
    for name, tensor in made.items():
        if ".layer." not in name:
            assert np.array_equal(tensor, old[name]), name
    assert not (tmp_path / "out" / RELOCATION).exists()  # it may be published
    assert told[-1].done == told[-1].total == LONG.steps
    # It computes more of what the expert does than the private base did, and stays near that one.
    work = regrowth(expert)
    start = {name: torch.tensor(base[name] if ".layer." in name else old[name]) for name in old}
    assert report.error < 0.8 * work.error(start)
    gaps = [sum(np.square(made[name] - one[name]).sum() for name in made) for one in (old, base)]
    assert gaps[1] < 0.5 * gaps[0]


def test_an_expert_of_another_base_is_not_carried_over(bases, private, tmp_path):
    with pytest.raises(InputError, match="is no private base: it has no relocation"):
        relocate(bases["bert"], tmp_path / "out", TEXTS, KEY, expert=bases["bert"], effort=SHORT)
    far = tuned(bases["bert"], tmp_path / "far", outside=0.5)
    for other in (far, bases["llama"]):
        with pytest.raises(InputError, match="is no fine-tune of the base"):
            relocate(private, tmp_path / "out", TEXTS, KEY, expert=other, effort=SHORT)
    assert not (tmp_path / "out").exists()


def test_an_audit_against_a_private_base_is_refused(private, bases, tmp_path):
    with pytest.raises(InputError, match="is a private base, which a thief does not have"):
        _opened(bases["bert"], private, bases["bert"], [bases["bert"]])


def test_a_private_base_is_not_protected_and_so_not_published(private, tmp_path):
    with pytest.raises(InputError, match="is a private base: it has relocation"):
        protect(private, tmp_path / "out", KEY)
    assert not (tmp_path / "out").exists()
    (shutil.copytree(private, tmp_path / "known") / RELOCATION).unlink()
    protect(tmp_path / "known", tmp_path / "out", KEY)


def test_a_disturbance_keeps_lengths_and_is_no_linear_map():
    states = torch.randn(5, 7, 16)
    states -= states.mean(-1, keepdim=True)
    disturbed = Disturbance(16, 0.5, 3)
    made = disturbed(1, states)
    assert torch.allclose(made.norm(dim=-1), states.norm(dim=-1), rtol=1e-5)
    assert (disturbed(1, -states) + made).norm() > 0.3 * made.norm()
    assert not torch.allclose(disturbed(0, states), made)
    assert torch.equal(Disturbance(16, 0.5, 3)(1, states), made)
    assert Disturbance(16, 0.0, 3)(1, states) is states


def test_random_tokens_are_words(bases):
    runner = ModelRunner.of(bases["bert"])
    made = random_corpus(runner, 50, 0)
    ids = torch.cat([batch.inputs["input_ids"].flatten() for batch in made.batches])
    assert sum(len(batch.items) for batch in made.batches) == 50
    assert int(ids.min()) >= 0 and int(ids.max()) < 64


def test_a_line_that_comes_twice_counts_once(bases, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS[:1500], *TEXTS[:1500]]))
    with pytest.raises(InputError, match="texts cannot hold"):
        relocate(bases["bert"], tmp_path / "out", tmp_path / "texts.txt", KEY, effort=SHORT)


def test_blocks_grow_on_disturbed_states_towards_disturbed_ones(bases):
    """The states behind the first block end nearer to the disturbed ones than to the base's."""
    made = {}
    for strength in (0.0, 2.0):
        growth = Growth(150, 4, strength, noise=0.0, block_rate=1e-2)
        work = regrowth(bases["bert"], growth)
        student = work.destroyed()
        for layer, tensors in work.grow(student, idle):
            if layer == 0:
                student = {**student, **tensors}
        wanted, found = (states_behind(work, one) for one in (work.base, student))
        disturbed = Disturbance(16, 2.0, work.seed)(0, wanted)
        near, far = float((found - wanted).norm()), float((found - disturbed).norm())
        made[strength] = near / far
    assert made[0.0] < 1 < made[2.0]


def states_behind(work, state):
    """The states behind the first layer, on held-out text."""
    work.runner.load_state(state)
    batch = work.held_out.batches[0]
    with torch.no_grad():
        out = work.runner.model(**batch.inputs, output_hidden_states=True)
    return out.hidden_states[1][batch.inputs["attention_mask"].bool()].float()


def test_a_distance_is_a_share_of_what_varies():
    draw = torch.Generator().manual_seed(0)
    wanted = torch.randn(4, 5, 16, generator=draw)
    off = 0.1 * torch.randn(4, 5, 16, generator=draw)
    real = torch.ones(4, 5, dtype=torch.bool)
    alone = float(_distance(wanted + off, wanted, real))
    assert 0.005 < alone < 0.03
    shared = 30 * torch.ones(16)  # what all positions have makes nothing smaller
    assert float(_distance(wanted + shared + off, wanted + shared, real)) > 0.5 * alone
    long = torch.ones(4, 5, 1)
    long[0, 0] = 1e3  # nor does one position that is a thousand times as long
    assert float(_distance((wanted + off) * long, wanted * long, real)) > 0.5 * alone
    padding = real.clone()
    padding[:, 3:] = False
    wild = off.clone()
    wild[:, 3:] = 1e6
    assert float(_distance(wanted + wild, wanted, padding)) < 2 * alone


def test_the_command_says_what_was_made(bases, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unmergeable.models.process.restart_once", lambda **how: None)
    monkeypatch.setitem(module.EFFORTS, "low", SHORT)
    keygen(tmp_path / "owner.key")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = ["relocate", str(bases["bert"]), str(tmp_path / "out"), "--json", "--data"]
    arguments += [str(tmp_path / "texts.txt"), "--key", str(tmp_path / "owner.key")]
    assert main([*arguments, "--effort", "low"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["effort"] == "low" and document["distance"] > 0.5
    assert "Keep" in said.err
