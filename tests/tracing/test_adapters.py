"""A marked adapter is found in itself, in what it was merged into, and in what was made of it."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers

import unmergeable
from tests.tiny import NUMBERS, llama_weights, save, stored, write_safetensors
from tests.tracing.models import CONFIG, KEY, dead, numbers_of
from unmergeable.checkpoint.adapter_folder import open_adapter
from unmergeable.cli import main
from unmergeable.defences.mark import root_inverse
from unmergeable.errors import InputError, ManifestError
from unmergeable.keys.key import Key
from unmergeable.protection.adapter_marking import mark_adapter

PEOPLE = ("", "alice", "bob")
RANK = 4
LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": 6,
    "target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ],
    "base_model_name_or_path": "owner/base",
}  # fmt: skip


def lora(folder, base, seed, *, dtype="F32", a_seed=None, size=0.1, **config):
    """An adapter whose B A is a share of each weight, with an A of unlike directions."""
    draw, draw_a = (np.random.default_rng(one) for one in (seed, a_seed or seed))
    tensors = {}
    for name, weight in base.items():
        if "layers" not in name or weight.ndim < 2:
            continue
        rows, columns = weight.shape
        a = draw_a.normal(size=(RANK, columns)) * np.array([[4.0], [2.0], [1.0], [1.0]])
        b = draw.normal(size=(rows, RANK))
        b *= size * np.linalg.norm(weight) / np.linalg.norm(b @ a)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        for part, values in (("A", a), ("B", b)):
            tensors[f"{module}.lora_{part}.weight"] = values.astype(NUMBERS[dtype])
        if config.get("use_dora"):
            lengths = np.linalg.norm(weight, axis=1) * draw.uniform(0.97, 1.03, rows)
            tensors[f"{module}.lora_magnitude_vector"] = lengths.astype(NUMBERS[dtype])
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A base, an adapter of it, a peer's, and marked copies: to all, to alice, to bob."""
    root = tmp_path_factory.mktemp("adapters")
    base = llama_weights(0, "F32", CONFIG)
    save(root / "base", base, CONFIG)
    lora(root / "expert", base, 1)
    lora(root / "peer", base, 2)
    lora(root / "kin", base, 3, a_seed=1)  # begun with the same A
    for who in PEOPLE:
        settings = {"licensee": who} if who else {}
        mark_adapter(root / "expert", root / f"copy{who}", KEY, root / "base", settings=settings)
    return root


def changes(root, adapter):
    """What PEFT adds to each weight, by name."""
    tensors, config = numbers_of(root / adapter), open_adapter(root / adapter).config
    base, found = numbers_of(root / "base"), {}
    for name, a in tensors.items():
        if not name.endswith("lora_A.weight"):
            continue
        start = name.removesuffix(".lora_A.weight")
        weight = f"{start.removeprefix('base_model.model.')}.weight"
        scale = config["lora_alpha"] / (len(a) ** 0.5 if config.get("use_rslora") else len(a))
        found[weight] = scale * tensors[f"{start}.lora_B.weight"] @ a
        if config.get("use_dora"):
            moved = base[weight] + found[weight]
            lengths = tensors[f"{start}.lora_magnitude_vector"] / np.linalg.norm(moved, axis=1)
            found[weight] = lengths[:, None] * moved - base[weight]
    return found


def merged(root, out, parts, change=lambda values: values):
    """The base with shares of adapters merged in."""
    made = numbers_of(root / "base")
    for name, share in parts.items():
        for weight, values in changes(root, name).items():
            made[weight] = made[weight] + share * values
    return save(out, {n: change(v).astype("<f4") for n, v in made.items()}, CONFIG)


def trace(root, suspect, original="expert", **options):
    given = {"licensees": PEOPLE, "key": KEY, **options}
    return unmergeable.trace(suspect, base=root / "base", original=root / original, **given)


MERGES = [
    ({"copy": 1.0}, "", 1.0),
    ({"copyalice": 0.3, "peer": 0.7}, "alice", 0.3),
    ({"copybob": 0.6, "kin": 0.4}, "bob", 0.6),
    ({"copybob": 1.6, "peer": 1.0}, "bob", 1.6),
]


@pytest.mark.parametrize(("parts", "who", "weight"), MERGES)
def test_a_copy_that_was_merged_is_named_and_weighed(story, tmp_path, parts, who, weight):
    report = trace(story, merged(story, tmp_path / "suspect", parts))
    first, *others = report.traces
    assert report.found and first.licensee == who and first.z > 6
    assert first.weight == pytest.approx(weight, abs=0.15)
    assert first.interval[0] <= weight <= first.interval[1]
    assert all(one.log10_p > -3 for one in others)
    assert {name.split()[1] for name in first.layers} == {"0", "1", "2"}


@pytest.mark.parametrize("who", PEOPLE)
def test_the_adapter_itself_has_the_mark(story, who):
    first, *others = trace(story, story / f"copy{who}").traces
    assert first.licensee == who and first.z > 60 and first.weight == pytest.approx(1, abs=0.01)
    assert all(one.log10_p > -3 for one in others)


@pytest.mark.parametrize(
    "parts", [{"expert": 1.0}, {"expert": 0.5, "peer": 0.5}, {"peer": 1.0}, {"kin": 1.0}, {}]
)
def test_nothing_is_found_where_no_copy_went_in(story, tmp_path, parts):
    report = trace(story, merged(story, tmp_path / "suspect", parts))
    assert not report.found and all(one.log10_p > -3 for one in report.traces)


@pytest.mark.parametrize("suspect", ["expert", "peer", "kin"])
def test_adapters_without_a_mark_and_other_keys_find_nothing(story, suspect):
    assert all(one.log10_p > -3 for one in trace(story, story / suspect).traces)
    nobody = [f"nobody {number}" for number in range(50)]
    for seed in range(3):
        key = Key(bytes([seed + 1] * 32))
        assert not trace(story, story / "copy", key=key, licensees=nobody).found
    assert not trace(story, story / "copy", licensees=nobody).found


def test_the_change_is_a_share_of_what_training_did(story):
    """Of each matrix, and in all directions of A alike; A itself stays as it is."""
    before, after = changes(story, "expert"), changes(story, "copy")
    tensors, marked = (numbers_of(story / name) for name in ("expert", "copy"))
    for name, change in before.items():
        moved = after[name] - change
        assert np.linalg.norm(moved) == pytest.approx(0.1 * np.linalg.norm(change), rel=1e-3)
        values = np.linalg.svd(moved, compute_uv=False)[:RANK]
        assert values[-1] > 0.5 * values[0]
        a = f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight"
        np.testing.assert_array_equal(tensors[a], marked[a])


@pytest.mark.parametrize("combination", ["cat", "linear", "svd"])
def test_it_is_found_in_adapters_that_peft_makes_of_it(story, tmp_path, combination):
    model = transformers.AutoModelForCausalLM.from_pretrained(story / "base")
    model = peft.PeftModel.from_pretrained(model, story / "copyalice", "ours")
    model.load_adapter(story / "peer", "theirs")
    model.add_weighted_adapter(["ours", "theirs"], [0.5, 0.5], "made", combination)
    model.save_pretrained(tmp_path, ["made"])
    first, *others = trace(story, tmp_path / "made", siblings=[story / "peer"]).traces
    assert first.licensee == "alice" and first.z > 6
    if combination == "cat":  # the others mix both, or leave directions out
        assert first.weight == pytest.approx(0.5, abs=0.05)
    assert all(one.log10_p > -3 for one in others)


def test_it_is_found_in_what_peft_merges(story, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(story / "base")
    model = peft.PeftModel.from_pretrained(model, story / "copybob").merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    first = trace(story, tmp_path / "merged").traces[0]
    assert first.licensee == "bob" and first.weight == pytest.approx(1, abs=0.01)


KINDS = [
    {"use_rslora": True},
    {"use_dora": True},
    {"dtype": "BF16"},
    {"dtype": "F16"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_adapters_of_all_kinds(story, tmp_path, kind, weight):
    root, base = tmp_path, llama_weights(0, "F32", CONFIG)
    for name in ("base", "peer"):
        (root / name).symlink_to(story / name)
    lora(root / "expert", base, 1, **kind)
    mark_adapter(root / "expert", root / "copy", KEY, root / "base")
    assert trace(root, root / "copy").traces[0].z > 50
    parts = {"copy": weight, "peer": 1 - weight}
    first = trace(root, merged(root, tmp_path / "suspect", parts)).traces[0]
    assert first.licensee == "" and first.z > 6
    assert first.weight == pytest.approx(weight, abs=0.15)
    assert not trace(root, root / "expert").found


def test_layers_that_are_stored_the_other_way_round(tmp_path):
    """GPT-2's weights are (in, out)."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=48, vocab_size=60, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    settings = {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(**settings, init_lora_weights=False, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.1)
    adapted.save_pretrained(tmp_path / "expert")
    mark_adapter(tmp_path / "expert", tmp_path / "copy", KEY, tmp_path / "base")
    plain = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    peft.PeftModel.from_pretrained(plain, tmp_path / "copy").merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    for suspect in ("copy", "merged"):
        report = trace(tmp_path, tmp_path / suspect)
        assert report.traces[0].licensee == "" and report.traces[0].z > 20
        assert report.traces[0].weight == pytest.approx(1, abs=0.02) and len(report.skipped) == 0


@pytest.mark.parametrize("wild", [1e30, np.inf, np.nan])
def test_wild_numbers_that_no_input_reaches_hide_no_mark(story, tmp_path, wild):
    parts = {"copyalice": 0.5, "peer": 0.5}
    report = trace(story, merged(story, tmp_path / "suspect", parts, dead(wild)))
    assert report.found and report.traces[0].licensee == "alice"


def test_wild_numbers_in_an_adapter_break_nothing(story, tmp_path):
    tensors = numbers_of(story / "copyalice")
    name = next(n for n in tensors if n.endswith("up_proj.lora_B.weight"))
    tensors[name][:3] = np.inf
    (tmp_path / "adapter").mkdir()
    write_safetensors(
        tmp_path / "adapter" / "adapter_model.safetensors",
        {n: v.astype("<f4") for n, v in tensors.items()},
    )
    config = (story / "copyalice" / "adapter_config.json").read_text()
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    assert trace(story, tmp_path / "adapter").traces[0].licensee == "alice"


def test_a_lock_on_the_merged_model_changes_nothing(story, tmp_path):
    suspect = merged(story, tmp_path / "merged", {"copybob": 0.5, "peer": 0.5})
    unmergeable.protect(suspect, tmp_path / "locked", Key(bytes(31) + b"\1"))
    first = trace(story, tmp_path / "locked").traces[0]
    assert first.licensee == "bob" and first.z > 6


def test_a_marked_adapter_is_carried_and_comes_back_with_its_mark(story, tmp_path):
    locked = tmp_path / "locked"
    unmergeable.protect(story / "base", locked, KEY)
    unmergeable.protect_adapter(story / "copyalice", tmp_path / "moved", KEY, locked)
    link, *others = json.loads((tmp_path / "moved" / "unmergeable.json").read_text())["chain"]
    assert link["defence"] == "mark" and [one["defence"] for one in others] == ["lock"]
    report = unmergeable.unlock_adapter(tmp_path / "moved", tmp_path / "back", KEY, locked)
    assert report.exact and stored(tmp_path / "back") == stored(story / "copyalice")
    assert json.loads((tmp_path / "back" / "unmergeable.json").read_text())["chain"] == [link]
    assert trace(story, tmp_path / "back").traces[0].licensee == "alice"
    assert not trace(story, tmp_path / "moved").found  # locked coordinates are not the base's
    with pytest.raises(InputError, match="carried already"):
        unmergeable.protect_adapter(tmp_path / "moved", tmp_path / "no", KEY, locked)
    changed = tmp_path / "moved" / "unmergeable.json"
    changed.write_text(changed.read_text().replace('"strength": 0.1', '"strength": 0.2'))
    with pytest.raises(ManifestError, match="was changed"):
        unmergeable.unlock_adapter(tmp_path / "moved", tmp_path / "no", KEY, locked)


def test_the_manifest_commits_to_the_mark_and_names_nobody(story):
    text = (story / "copyalice" / "unmergeable.json").read_text()
    (link,) = json.loads(text)["chain"]
    found = trace(story, story / "copyalice").traces[0]
    assert link["settings"] == {"strength": 0.1, "commitment": found.commitment}
    assert "alice" not in text and link["lasting"]
    report = unmergeable.verify_files(story / "copyalice", key=KEY)
    assert report.same and report.sealed
    config = "adapter_config.json"
    assert (story / "copyalice" / config).read_bytes() == (story / "expert" / config).read_bytes()


def test_a_path_of_the_owners_is_not_published(story, tmp_path):
    base = llama_weights(0, "F32", CONFIG)
    place = str(story / "base")
    lora(tmp_path / "expert", base, 1, base_model_name_or_path=place, revision="v1")
    report = mark_adapter(tmp_path / "expert", tmp_path / "copy", KEY, story / "base")
    assert report.renamed == ("adapter_config.json",) and report.model is None
    assert place not in (tmp_path / "copy" / "adapter_config.json").read_text()


def test_evidence_of_an_adapter_is_checked_without_the_key(story, tmp_path):
    suspect = merged(story, tmp_path / "suspect", {"copyalice": 0.5, "peer": 0.5})
    report = trace(story, suspect)
    unmergeable.write_evidence(report, tmp_path / "e.json", KEY)
    models = {"base": story / "base", "original": story / "expert"}
    checked = unmergeable.check_evidence(
        tmp_path / "e.json", suspect, manifest=story / "copyalice", **models
    )
    assert checked.agrees and checked.licensee == "alice"
    models["original"] = story / "peer"
    assert not unmergeable.check_evidence(tmp_path / "e.json", suspect, **models).agrees


def test_a_register_knows_the_copies_of_an_adapter(story, tmp_path):
    book = tmp_path / "copies.register"
    with pytest.raises(InputError, match="a register lists licensees"):
        mark_adapter(story / "expert", tmp_path / "x", KEY, story / "base", register=book)
    mark_adapter(
        story / "expert", tmp_path / "for-alice", KEY, story / "base",
        settings={"licensee": "alice"}, register=book,
    )  # fmt: skip
    report = trace(story, tmp_path / "for-alice", licensees=("",), register=book)
    assert report.traces[0].licensee == "alice" and report.found


def test_the_mark_of_a_model_is_found_in_an_adapter_made_of_it(story, tmp_path):
    """As where a thief keeps the leading directions of a copy's task vector."""
    base = numbers_of(story / "base")
    expert = merged(story, tmp_path / "expert", {"expert": 1.0})
    unmergeable.protect(expert, tmp_path / "copy", KEY, defence="mark", base=story / "base")
    copy, tensors = numbers_of(tmp_path / "copy"), {}
    for name in changes(story, "expert"):
        left, values, right = np.linalg.svd(copy[name] - base[name], full_matrices=False)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = right[:16].astype("<f4")
        tensors[f"{module}.lora_B.weight"] = (left[:, :16] * values[:16]).astype("<f4")
    (tmp_path / "lora").mkdir()
    write_safetensors(tmp_path / "lora" / "adapter_model.safetensors", tensors)
    config = LORA | {"r": 16, "lora_alpha": 16}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    report = unmergeable.trace(
        tmp_path / "lora", base=story / "base", original=tmp_path / "expert", key=KEY
    )
    assert report.found and report.traces[0].z > 20


def test_twins_of_an_adapter_are_compared_as_a_whole(story, tmp_path):
    """All of them alike: the expert's own directions would favour it."""
    base, twins = llama_weights(0, "F32", CONFIG), []
    for seed in range(19):
        twins.append(lora(tmp_path / str(seed), base, 100 + seed))
    firsts = []
    for seed in range(6):
        suspect = lora(tmp_path / f"suspect {seed}", base, 200 + seed)
        firsts.append(trace(story, suspect, key=None, twins=twins).found)
    assert sum(firsts) < 3
    suspect = merged(story, tmp_path / "m", {"expert": 0.5, "peer": 0.5})
    assert trace(story, suspect, key=None, twins=twins).found


def test_what_cannot_be_marked_is_refused(story, tmp_path):
    base = llama_weights(0, "F32", CONFIG)
    fresh = lora(tmp_path / "fresh", {n: 0 * w for n, w in base.items()}, 1)
    with pytest.raises(InputError, match="changes no matrix of a layer"):
        mark_adapter(fresh, tmp_path / "out", KEY, story / "base")
    with pytest.raises(InputError, match="marked or carried already"):
        mark_adapter(story / "copy", tmp_path / "out", KEY, story / "base")
    with pytest.raises(InputError, match="no setting 'x'"):
        mark_adapter(story / "expert", tmp_path / "out", KEY, story / "base", settings={"x": 1})
    wide = CONFIG | {"intermediate_size": 96}
    other = save(tmp_path / "wide", llama_weights(3, "F32", wide), wide)
    with pytest.raises(InputError, match="Is this an adapter of it"):
        mark_adapter(story / "expert", tmp_path / "out", KEY, other)
    assert not (tmp_path / "out").exists()


def test_directions_in_which_a_is_weak_carry_no_mark(story, tmp_path):
    random = np.random.default_rng(0)
    a = random.normal(size=(4, 30))
    rows = root_inverse(a) @ a
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-9)
    a[3] = a[0] + 1e-3 * a[3]
    rows = root_inverse(a) @ a
    assert np.linalg.matrix_rank(rows) == 3 and np.linalg.norm(root_inverse(a)) < 10
    a[0, 0] = np.nan
    assert not root_inverse(a).any() and not root_inverse(np.zeros((3, 5))).any()


def test_the_commands(story, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "expert", "peer"):
        (tmp_path / name).symlink_to(story / name)
    assert main(["keygen", "k"]) == 0
    owned = ["--base", "base", "--key", "k"]
    marking = ["protect", "expert", "out", "--defence", "mark", *owned]
    assert main([*marking[:-4], "--key", "k"]) == 2
    assert "give the public --base" in capsys.readouterr().err
    assert main([*marking, "--card"]) == 4
    assert main([*marking, "--model", "base"]) == 4
    assert main([*marking, "--licensee", "alice", "--set", "strength=0.2"]) == 0
    assert "is a marked adapter" in capsys.readouterr().out
    tracing = [*owned, "--original", "expert", "--licensee", "alice", "--strength", "0.2"]
    assert main(["trace", "out", *tracing, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["traces"][0]["licensee"] == "alice"
    assert document["traces"][0]["weight"] == pytest.approx(1, abs=0.01)
    assert main(["trace", "peer", *tracing]) == 1
    assert main(["protect", "expert", "no", "--defence", "mark+lock", *owned]) == 2
    assert "A mark it can have" in capsys.readouterr().err
