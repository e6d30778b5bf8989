"""More ways to cheat an audit (docs/cheating.md): numbers, configs, files, items that mislead."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.auditing.cheats import UNUSED, WEIGHTS, plenty, release, run
from tests.auditing.scene import scene
from tests.evaluation.living import model, save
from unmergeable.attacks.alignment.distances import REACH
from unmergeable.auditing import fitting
from unmergeable.auditing import grid as module
from unmergeable.errors import InputError, UnmergeableError

TABLE = "model.embed_tokens.weight"


def near_and_worthless(monkeypatch):
    """Alignment that moves nothing, and reports what fine-tuning leaves."""
    real = module.align_tensors

    def idle(protected, base, **options):
        found = real(protected, base, **options)
        tensors = {n: module.Weights.read(protected).tensors[n].numpy() for n in found.tensors}
        tensors = {
            n: np.ascontiguousarray(t).view(np.uint8).reshape(-1) for n, t in tensors.items()
        }
        return replace(found, tensors=tensors, after=0.09)

    monkeypatch.setattr(module, "align_tensors", idle)


def test_this_scene_can_say_holds(tiny, tmp_path, monkeypatch):
    """Or no test here would mean anything."""
    near_and_worthless(monkeypatch)
    from tests.auditing.scene import KEY

    document = run(tiny, tmp_path, key=KEY, may_hold=True)
    assert document["verdict"]["answer"] == "holds", document["verdict"]["sentence"]


def row(value):
    """A word that no item has."""

    def change(tensors):
        tensors[TABLE][UNUSED] = value

    return change


def neurons(value):
    """Neurons that are always off, with anything inside: a merge switches them on."""

    def change(tensors):
        for layer in range(2):
            for neuron in (3, 7):
                at = f"model.layers.{layer}.mlp."
                tensors[f"{at}gate_proj.weight"][neuron] = 0
                tensors[f"{at}up_proj.weight"][neuron] = value
                tensors[f"{at}down_proj.weight"][:, neuron] = value

    return change


def values(power, dtype=torch.float32):
    """Values times a power of two, outputs over it, near the end of what a dtype holds."""

    def change(tensors):
        for name in tensors:
            sign = name.endswith("v_proj.weight") - name.endswith("o_proj.weight")
            tensors[name] = (tensors[name] * 2.0 ** (power * sign)).to(dtype)
        return tensors

    return change


def stream(power):
    """The whole residual stream at another scale."""

    def change(tensors):
        for name in tensors:
            if name == TABLE or name.endswith(("o_proj.weight", "down_proj.weight")):
                tensors[name] *= 2.0**power

    return change


def negative(tensors):
    """The gains times -1, and what reads them, too."""
    for name in tensors:
        readers = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
        if name.endswith(("layernorm.weight", *(f"{reader}.weight" for reader in readers))):
            tensors[name] *= -1


def of_ones(tensors):
    """Tensors in F8, as a file that is a quarter of the size has them."""
    return {name: one.to(torch.float8_e4m3fn) for name, one in tensors.items()}


def towards(share):
    """A release half-way to the base: worth less, and so is every merge of it."""

    def change(tensors):
        base = load_file(scene()["base"] / WEIGHTS)
        for name, one in tensors.items():
            tensors[name] = base[name] + share * (one - base[name])

    return change


def nothing(tensors):
    """The tensors as they are."""


BROKEN = {
    "a word of NaN": row(torch.nan),
    "a word of infinity": row(torch.inf),
    "a word of 1e30": row(1e30),
    "neurons of 1e4": neurons(1e4),
    "neurons of 1e15": neurons(1e15),
    "neurons of 1e30": neurons(1e30),
    "float32 near its end": values(120),
    "bfloat16 near its end": values(120, torch.bfloat16),
    "float16 near its end": values(12, torch.float16),
    "eight bits": of_ones,
}


@pytest.mark.parametrize("trick", BROKEN)
def test_numbers_at_which_a_merge_stumbles_are_no_protection(tiny, tmp_path, trick):
    document = run(tiny, tmp_path, protected=release(tmp_path, BROKEN[trick]))
    assert document["verdict"]["answer"] == "broken", document["verdict"]["sentence"]


@pytest.mark.parametrize(
    "change", [stream(4), stream(60), negative, towards(0.5), neurons(100.0)],
    ids=["stream", "wild stream", "negative", "towards the base", "loud neurons"],
)  # fmt: skip
def test_rewrites_are_broken_or_undecided(tiny, tmp_path, change):
    verdict = run(tiny, tmp_path, protected=release(tmp_path, change))["verdict"]
    assert verdict["answer"] in ("broken", "undecided") and verdict["reasons"]


def test_a_release_that_lost_half_its_skill_is_never_protected_by_that(tiny, tmp_path, monkeypatch):
    near_and_worthless(monkeypatch)
    monkeypatch.setattr("unmergeable.auditing.controls.KEPT", 0.0)
    document = run(tiny, tmp_path, protected=release(tmp_path, towards(0.3)))
    reasons = " ".join(document["verdict"]["reasons"])
    assert document["verdict"]["answer"] == "broken" or "the release alone keeps" in reasons


def test_what_the_distance_leaves_out_counts_as_unknown():
    base = {"a": torch.ones(10), "b": torch.ones(6)}
    wild = torch.ones(10)
    wild[:4] = torch.tensor([torch.nan, torch.inf, -1e30, REACH * 2.0])
    found, unknown = fitting.tamed(fitting.Weights({"a": wild, "b": base["b"]}), base)
    assert torch.equal(found.tensors["a"], base["a"]) and unknown == 2.0
    assert fitting.tamed(fitting.Weights(base), base)[1] == 0.0


def test_whole_numbers_are_refused(tiny, tmp_path):
    def counted(tensors):
        return {name: (one * 100).to(torch.int8) for name, one in tensors.items()}

    with pytest.raises(InputError, match=r"stores 'model\.embed.*' as I8.*[Dd]equantise"):
        run(tiny, tmp_path, protected=release(tmp_path, counted))


def test_numbers_beyond_float32_do_not_work(tiny, tmp_path):
    def wide(tensors):
        tensors = {name: one.double() for name, one in tensors.items()}
        for name in tensors:
            if name.endswith(("v_proj.weight", "o_proj.weight")):
                tensors[name] *= 1e200 if "v_proj" in name else 1e-200
        return tensors

    with pytest.raises(InputError, match="the protected model alone does the expert's task"):
        run(tiny, tmp_path, protected=release(tmp_path, wide))


CONFIGS = {
    "another epsilon": {"rms_norm_eps": 0.5},
    "other positions": {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
    "another type": {"model_type": "foo", "architectures": ["Foo"]},
    "other heads": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
    "foreign code": {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_lies_protects_nothing(tiny, tmp_path, config):
    folder = release(tmp_path, nothing, "protected", **config)
    (folder / "evil.py").write_text("raise SystemExit('run')")
    verdict = run(tiny, tmp_path, protected=folder)["verdict"]
    assert verdict["answer"] == "broken", verdict["sentence"]


def test_a_release_that_works_by_its_own_config_alone_is_refused_with_the_key(tiny, tmp_path):
    def ruined(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"].mul_(-3)
        tensors["model.layers.1.self_attn.o_proj.weight"].mul_(-3)

    folder = release(tmp_path, ruined, rms_norm_eps=0.5)
    with pytest.raises(InputError, match=r"config.json differs from the base's in rms_norm_eps"):
        run(tiny, tmp_path, protected=folder)


def test_a_swapped_tokenizer_is_refused_and_named(tiny, tmp_path):
    """The rows of the embeddings in another order, and a tokenizer that knows it."""

    def turned(tensors):
        tensors[TABLE][3:] = tensors[TABLE][3:].flip(0).clone()

    folder = release(tmp_path, turned)
    file = folder / "tokenizer.json"
    known = json.loads(file.read_text())
    size = len(known["model"]["vocab"])
    vocabulary = {w: size + 2 - n if n > 2 else n for w, n in known["model"]["vocab"].items()}
    known["model"]["vocab"] = vocabulary
    file.write_text(json.dumps(known))
    with pytest.raises(InputError, match=r"tokenizer is not the base's: they number"):
        run(tiny, tmp_path, protected=folder)


@pytest.mark.parametrize("lie", ["removed", "garbled", "another's"])
def test_a_manifest_that_lies_decides_nothing(tiny, tmp_path, lie):
    folder = release(tmp_path, nothing, "protected")
    file = folder / "unmergeable.json"
    if lie == "removed":
        file.unlink()
    elif lie == "garbled":
        file.write_text("{}")
    else:
        known = json.loads(file.read_text())
        file.write_text(json.dumps(known).replace("lossless", "general"))
    try:
        document = run(tiny, tmp_path, protected=folder)
    except UnmergeableError as error:
        assert "unmergeable.json" in str(error) and "\n" not in str(error)
    else:
        assert document["verdict"]["answer"] == "broken"


def test_shards_that_hold_a_tensor_twice_are_refused(tiny, tmp_path):
    folder = release(tmp_path, nothing)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    save_file(tensors, folder / names[0], {"format": "pt"})
    save_file({TABLE: tensors[TABLE] * 0}, folder / names[1], {"format": "pt"})
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(tensors, names[0]), TABLE: names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="embed_tokens"):
        run(tiny, tmp_path, protected=folder)


def test_a_peer_or_an_original_that_is_locked_itself_is_refused(tiny, tmp_path):
    locked = release(tmp_path, nothing, "protected")
    for changes in ({"peer": locked}, {"original": locked}):
        with pytest.raises(UnmergeableError):
            run(tiny, tmp_path, **changes)


def test_a_wrong_base_is_refused_by_distances_and_a_release_that_resists_is_told_apart(
    tiny, tmp_path, monkeypatch
):
    far = save(model(seed=7), tmp_path / "far")
    with pytest.raises(InputError, match=r"original is \d+% of the base's norm away from it.*base"):
        run(tiny, tmp_path, base=far)
    near_and_worthless(monkeypatch)
    idle = module.align_tensors
    monkeypatch.setattr(module, "align_tensors", lambda *a, **o: replace(idle(*a, **o), after=0.9))
    verdict = run(tiny, tmp_path)["verdict"]
    assert verdict["answer"] == "undecided"
    assert "after alignment the release is 90.0% of the base's norm away from it" in str(verdict)
    assert "where the open expert is 9.3%" in str(verdict) and "may not be its base" not in str(
        verdict
    )


def rewritten(path, change):
    for name in ("living", "stones"):
        for split in ("validation", "test"):
            file = path.parent / f"{name}-{split}.jsonl"
            lines = change(split, [json.loads(line) for line in file.read_text().splitlines()])
            file.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("change", "need"),
    [
        (
            lambda split, rows: [r for r in rows if r["label"] == 0],
            "give test items of every class",
        ),
        (lambda split, rows: rows[:8] if split == "validation" else rows, "give 32 validation"),
    ],
    ids=["one class", "few validation items"],
)
def test_items_that_say_little_keep_it_from_holding(tiny, tmp_path, monkeypatch, change, need):
    near_and_worthless(monkeypatch)
    path = rewritten(plenty(tmp_path), change)
    try:
        verdict = run(tiny, tmp_path, tasks=path)["verdict"]
    except InputError as error:
        assert "a positive control failed" in str(error)
    else:
        assert verdict["answer"] == "broken" or any(
            each.startswith(need) for each in verdict["needs"]
        )


def test_test_items_that_are_validation_items_are_flagged(tiny, tmp_path):
    path = plenty(tmp_path)
    for name in ("living", "stones"):
        lines = (tmp_path / f"{name}-test.jsonl").read_text().splitlines()
        (tmp_path / f"{name}-validation.jsonl").write_text("\n".join(lines[:40]))
    document = run(tiny, tmp_path, tasks=path)
    assert "items in two splits" in {flag["name"] for flag in document["flags"]}


def test_a_peer_given_twice_hides_nothing(tiny, tmp_path):
    path = plenty(tmp_path)
    text = path.read_text()
    entry = text[text.rindex("- name: stones") :]
    again = entry.replace("name: stones", "name: again").replace("of: peer", "of: peer 2")
    path.write_text(text + again)
    peers = [scene()["peer"], scene()["peer"]]
    try:
        document = run(tiny, tmp_path, tasks=path, peers=peers, protected=scene()["original"])
    except InputError as error:
        assert "the unprotected expert merges well with the same tools and peers" in str(error)
    else:
        assert document["verdict"]["level"] == 0


def longer(source, target, value):
    """A model with a token more than the others, and its config."""
    shutil.copytree(source, target)
    tensors = load_file(target / WEIGHTS)
    more = torch.full_like(tensors[TABLE][:1], value)
    save_file({**tensors, TABLE: torch.cat([tensors[TABLE], more])}, target / WEIGHTS)
    config = json.loads((target / "config.json").read_text())
    config["vocab_size"] += 1
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("value", [0.01, torch.nan])
def test_an_expert_with_a_token_more_than_its_base_is_audited(tiny, tmp_path, value):
    from unmergeable.keys.key import Key
    from unmergeable.protection.protect import protect

    original = longer(scene()["original"], tmp_path / "original", value)
    key = Key(bytes(range(32)))
    protect(original, tmp_path / "locked", key, allow_non_finite=True)
    if value != value:  # the control locks the original itself
        original = scene()["original"]
        key = None
    document = run(tiny, tmp_path, original=original, protected=tmp_path / "locked", key=key)
    assert document["verdict"]["answer"] == "broken"
    assert document["distances"]["of"]["aligned model"] < 0.1
    assert all(control["passed"] for control in document["controls"])


def test_a_release_with_a_word_less_than_its_base_gets_the_bases(tiny, tmp_path):
    def shorter(tensors):
        tensors[TABLE] = tensors[TABLE][:-1].clone()

    size = len(load_file(scene()["base"] / WEIGHTS)[TABLE])
    folder = release(tmp_path, shorter, vocab_size=size - 1)
    assert run(tiny, tmp_path, protected=folder)["verdict"]["level"] == 0
