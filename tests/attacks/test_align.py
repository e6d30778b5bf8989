"""Alignment undoes an exact lock: of every family, of both kinds, without key and without data."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.disguise import disguised, no_epsilon, powers, reals
from tests.architectures.families import FAMILIES, KINDS, all_in_float64, outputs
from tests.architectures.moving import inputs_of
from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
NAME = "model.safetensors"
TAU = 0.02  # size of the fine-tuning, relative to the weights: several times a usual one


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base, expert and sibling of a family, made once."""
    made = {}

    def get(family):
        if family.name not in made:
            root = tmp_path_factory.mktemp(family.name)
            model = family.build()
            model.save_pretrained(root / "base")
            start = {name: w.clone() for name, w in model.named_parameters()}
            for seed, name in ((1, "expert"), (2, "sibling")):
                torch.manual_seed(seed)
                with torch.no_grad():
                    for key, w in model.named_parameters():
                        noise = torch.randn_like(w) * start[key].std(correction=0) * TAU
                        w.copy_(start[key] + noise)
                model.save_pretrained(root / name)
            made[family.name] = root
        return made[family.name]

    return get


def distance(one, two):
    a, b = (load_file(folder / NAME) for folder in (one, two))
    return float(np.sqrt(sum(((a[k].double() - b[k].double()) ** 2).sum() for k in a)))


def disguise(source, out, draw, additive):
    """A folder whose model computes the same with other weights."""
    shutil.copytree(source, out)
    folder = open_folder(source)
    layout = Layout.of(folder.config, folder.shapes)
    made = disguised(load_file(source / NAME), layout, draw=draw, additive=additive)
    save_file({n: t.contiguous() for n, t in made.items()}, out / NAME, metadata={"format": "pt"})


# A sibling is farther away than the base: a lock that is found from there is found from the base.
@pytest.mark.parametrize(
    ("family", "anchor"),
    [(family, "sibling") for family in FAMILIES] + [(family, "base") for family in KINDS],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_lossless_lock_is_undone_to_the_bit(family, anchor, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY)
    report = align(tmp_path / "locked", tmp_path / "aligned", root / anchor)
    assert distance(tmp_path / "locked", root / "expert") > 10 * distance(
        root / "base", root / "expert"
    )
    assert distance(tmp_path / "aligned", root / "expert") == 0
    assert report.after < 2 * TAU < report.before
    assert not report.suspicious and not report.explanation


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_general_lock_is_undone_to_a_part_of_the_fine_tuning(family, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": "general"})
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    tau = distance(root / "base", root / "expert")
    # What remains is gauge inside the heads, which are a large part of these small models.
    assert distance(tmp_path / "aligned", root / "expert") < 0.4 * tau
    assert distance(tmp_path / "locked", root / "expert") > 10 * tau


@pytest.mark.parametrize(
    ("family", "rewrites"),
    [(family, rewrites) for family in FAMILIES for rewrites in ("all", "powers")]
    + [(family, "powers and shifts") for family in KINDS],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_disguise_under_a_lock_is_undone_as_the_lock_alone_is(
    family, rewrites, folders, tmp_path
):
    """Powers of two under a lossless lock, to the bit; any rewrites under a general one."""
    root = folders(family)
    draw, kind = (reals, "general") if rewrites == "all" else (powers, "lossless")
    disguise(root / "expert", tmp_path / "disguised", draw, rewrites != "powers")
    protect(tmp_path / "disguised", tmp_path / "locked", KEY, settings={"kind": kind})
    report = align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    tau = distance(root / "base", root / "expert")
    assert distance(tmp_path / "aligned", root / "base") < 1.1 * tau
    assert (
        distance(tmp_path / "aligned", root / "expert")
        < (1e-4 if rewrites == "powers" else 0.5) * tau
    )
    assert report.after < 2 * TAU


def test_neither_key_nor_manifest_is_used(folders, tmp_path):
    family = FAMILIES[0]
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY)
    align(tmp_path / "locked", tmp_path / "one", root / "base")
    (tmp_path / "locked" / "unmergeable.json").unlink()
    align(tmp_path / "locked", tmp_path / "two", root / "base")
    assert distance(tmp_path / "one", tmp_path / "two") == 0


def test_without_the_base_there_is_nothing_to_align_to(folders, tmp_path):
    """The negative control: an unrelated model of the same shape brings nothing back."""
    family = FAMILIES[0]
    root = folders(family)
    family.build(seed=5).save_pretrained(tmp_path / "stranger")
    protect(root / "expert", tmp_path / "locked", KEY)
    report = align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "stranger")
    assert report.after > 0.8
    assert report.suspicious
    assert f"{report.after:.0%}" in report.explanation
    assert distance(tmp_path / "aligned", root / "expert") > 10 * distance(
        root / "base", root / "expert"
    )


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_the_aligned_model_computes_what_the_locked_one_computes(kind, folders, tmp_path):
    from unmergeable.verification.verify import verify

    root = folders(FAMILIES[0])
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": kind})
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    assert verify(tmp_path / "locked", tmp_path / "aligned").same


@pytest.mark.parametrize("name", ["gpt2", "phi", "falcon-alibi", "bert-classifier", "whisper-bare"])
def test_biases_that_moved_back_keep_what_is_computed(name, tmp_path):
    """In float64: in float32 the disguise itself rounds more than that."""
    family = next(family for family in FAMILIES if family.name == name)
    model = family.build(torch.float64)
    model.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    with torch.no_grad():
        for w in model.parameters():
            w.add_(torch.randn_like(w) * w.std(correction=0) * TAU)
    model.save_pretrained(tmp_path / "expert")
    disguise(tmp_path / "expert", tmp_path / "disguised", reals, True)
    align(tmp_path / "disguised", tmp_path / "aligned", tmp_path / "base")
    made = []
    for folder in ("disguised", "aligned"):
        loaded = type(model).from_pretrained(
            tmp_path / folder, dtype=torch.float64, attn_implementation="eager"
        )
        with all_in_float64(), no_epsilon(loaded):
            made.append(outputs(loaded, inputs_of(family), behind_softmax=True))
    one, two = made
    assert float((one - two).abs().max() / one.abs().max()) < 1e-9
    found, expert = (load_file(tmp_path / folder / NAME) for folder in ("aligned", "expert"))
    for key in (key for key in expert if key.endswith("bias")):
        assert torch.linalg.norm(found[key] - expert[key]) < 0.2 * torch.linalg.norm(expert[key])


def test_models_of_other_shapes_are_named(folders, tmp_path):
    llama, other = FAMILIES[0], next(f for f in FAMILIES if f.name == "llama-own-head-dim")
    with pytest.raises(InputError) as caught:
        align(folders(llama) / "expert", tmp_path / "out", folders(other) / "base")
    assert "not of one family" in str(caught.value)
    assert "k_proj.weight' is (8, 24) in one and (16, 24) in the other" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "space", "lacking"),
    [
        ("whisper-classifier", "pooled", "classifier.weight"),
        ("whisper-classifier", "pooled", "projector.weight"),
        ("siglip-vision", "pool_vo", "head.attention.out_proj.weight"),
    ],
)
def test_a_dense_space_that_the_base_shows_from_one_side_is_named(
    name, space, lacking, folders, tmp_path
):
    root = folders(next(family for family in FAMILIES if family.name == name))
    protect(root / "expert", tmp_path / "locked", KEY)
    shutil.copytree(root / "base", tmp_path / "base")
    state = load_file(root / "base" / NAME)
    save_file({n: t for n, t in state.items() if n != lacking}, tmp_path / "base" / NAME)
    with pytest.raises(InputError, match=f"'{space}' cannot be aligned.*lacks {lacking}"):
        align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base")
    assert not (tmp_path / "aligned").exists()
    # without that head at all, it stays as it is
    both = ("classifier.", "projector.", "head.attention.")
    save_file({n: t for n, t in state.items() if not n.startswith(both)}, tmp_path / "base" / NAME)
    assert align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base").after < 2 * TAU


# What the base has instead: more words or fewer, other labels, positions, token types.
INTERFACES = [
    ("llama", {"vocab_size": 70}),
    ("llama", {"vocab_size": 50}),
    ("gpt2", {"vocab_size": 64, "n_positions": 80}),
    ("llama-classifier", {"num_labels": 2, "vocab_size": 70}),
    ("bert-classifier", {"num_labels": 5, "max_position_embeddings": 40, "type_vocab_size": 1}),
    ("bert-masked", {"vocab_size": 64}),
    ("vit-classifier", {"num_labels": 9, "image_size": 20}),
    ("beit", {"num_labels": 9}),
    ("opt-350m", {"vocab_size": 70, "max_position_embeddings": 40}),
]


@pytest.mark.parametrize(("name", "changes"), INTERFACES)
@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_a_base_with_another_interface_is_compared_where_both_have_something(
    kind, name, changes, folders, tmp_path
):
    family = next(family for family in FAMILIES if family.name == name)
    root = folders(family)
    other = replace(family, changes={**family.changes, **changes})
    other.build().save_pretrained(tmp_path / "base")
    weights, made = load_file(root / "base" / NAME), load_file(tmp_path / "base" / NAME)
    for key, weight in made.items():  # the base's weights in as much of them as there is room for
        both = tuple(
            slice(min(*sizes)) for sizes in zip(weights[key].shape, weight.shape, strict=True)
        )
        weight[both] = weights[key][both]
    save_file(made, tmp_path / "base" / NAME, metadata={"format": "pt"})
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": kind})
    report = align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base")
    left = distance(tmp_path / "aligned", root / "expert")
    assert left == 0 if kind == "lossless" else left < distance(root / "base", root / "expert")
    assert report.after < 2 * TAU < report.before


@pytest.mark.parametrize(
    ("name", "changes", "tensor"),
    [
        ("bert-classifier", {"hidden_size": 32}, "LayerNorm.bias"),
        ("llama", {"intermediate_size": 44}, "down_proj"),
        ("llama-bare", {"hidden_size": 36, "head_dim": 4}, "embed_tokens"),
    ],
)
def test_a_base_with_another_width_is_refused(name, changes, tensor, folders, tmp_path):
    family = next(family for family in FAMILIES if family.name == name)
    other = replace(family, changes={**family.changes, **changes})
    other.build().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=f"not of one family.*{tensor}"):
        align(folders(family) / "expert", tmp_path / "out", tmp_path / "base")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layers", "side"), [(1, "other"), (3, "one")])
def test_missing_layers_are_named(layers, side, folders, tmp_path):
    family = FAMILIES[0]
    replace(
        family, changes={**family.changes, "num_hidden_layers": layers}
    ).build().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=rf"layers\..*\(24,\).*absent|absent in {side}"):
        align(folders(family) / "expert", tmp_path / "out", tmp_path / "base")
    assert not (tmp_path / "out").exists()


def test_an_expert_may_have_another_head_than_its_base(folders, tmp_path):
    writer, classifier = FAMILIES[0], next(f for f in FAMILIES if f.name == "llama-classifier")
    model = classifier.build()
    missing = model.load_state_dict(load_file(folders(writer) / "expert" / NAME), strict=False)
    assert missing.missing_keys == ["score.weight"]
    model.save_pretrained(tmp_path / "expert")
    protect(tmp_path / "expert", tmp_path / "locked", KEY)
    align(tmp_path / "locked", tmp_path / "aligned", folders(writer) / "base")
    assert distance(tmp_path / "aligned", tmp_path / "expert") == 0


@pytest.mark.parametrize("method", ["full", "base-reset"])
def test_base_and_expert_may_be_stored_in_different_dtypes(method, folders, tmp_path):
    root = folders(FAMILIES[0])
    FAMILIES[0].build(torch.bfloat16).save_pretrained(tmp_path / "base")
    protect(root / "expert", tmp_path / "locked", KEY)
    align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base", method=method)
    left = distance(tmp_path / "aligned", root / "expert")
    assert left == 0 if method == "full" else left < 2 * distance(root / "base", root / "expert")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_is_aligned_to_the_bit(dtype, folders, tmp_path):
    root = folders(FAMILIES[0])
    model = FAMILIES[0].build(dtype)
    model.load_state_dict({k: w.to(dtype) for k, w in load_file(root / "expert" / NAME).items()})
    model.save_pretrained(tmp_path / "expert")
    protect(tmp_path / "expert", tmp_path / "locked", KEY)
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    assert distance(tmp_path / "aligned", tmp_path / "expert") == 0


def test_progress_counts_every_byte_twice(folders, tmp_path):
    root, done = folders(FAMILIES[0]), []
    align(root / "expert", tmp_path / "aligned", root / "base", progress=done.append)
    stored = sum(w.nbytes for w in load_file(root / "expert" / NAME).values())
    assert done[-1].done == done[-1].total == 2 * stored


def test_a_shift_of_two_rows_of_a_short_table_is_undone(folders, tmp_path):
    """A LayerNorm sees nothing of it, and most rows were not moved."""
    vit = next(family for family in FAMILIES if family.name == "vit-classifier")
    root = folders(replace(vit, name="vit-short", changes={**vit.changes, "patch_size": 8}))
    shutil.copytree(root / "expert", tmp_path / "disguised")
    state = load_file(root / "expert" / NAME)
    table = state["vit.embeddings.position_embeddings"]
    assert table.shape[:2] == (1, 5)
    table[:, 1], table[:, 3] = table[:, 1] + 1.5, table[:, 3] - 0.75
    save_file(state, tmp_path / "disguised" / NAME, metadata={"format": "pt"})
    protect(tmp_path / "disguised", tmp_path / "locked", KEY)
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    tau = distance(root / "base", root / "expert")
    assert distance(tmp_path / "disguised", root / "expert") > 5 * tau
    # What fine-tuning itself did along the same direction is not known.
    assert distance(tmp_path / "aligned", root / "expert") < 0.1 * tau
    aligned = load_file(tmp_path / "aligned" / NAME)
    still = {"vit.embeddings.position_embeddings"}
    expert = load_file(root / "expert" / NAME)
    assert all(torch.equal(aligned[name], expert[name]) for name in expert.keys() - still)
