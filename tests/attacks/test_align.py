"""Alignment undoes an exact lock: of every family, of both kinds, without key and without data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.architectures.families import FAMILIES
from unmergeable.attacks.align import align
from unmergeable.errors import InputError
from unmergeable.keys import Key
from unmergeable.protection import protect

KEY = Key(bytes(range(32)))
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
                        noise = torch.randn_like(w) * start[key].std() * TAU
                        w.copy_(start[key] + noise)
                model.save_pretrained(root / name)
            made[family.name] = root
        return made[family.name]

    return get


def distance(one, two):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    return float(np.sqrt(sum(((a[k].double() - b[k].double()) ** 2).sum() for k in a)))


@pytest.mark.parametrize("anchor", ["base", "sibling"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_lossless_lock_is_undone_to_the_bit(family, anchor, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY)
    report = align(tmp_path / "locked", tmp_path / "aligned", root / anchor)
    assert distance(tmp_path / "locked", root / "expert") > 10 * distance(
        root / "base", root / "expert"
    )
    assert distance(tmp_path / "aligned", root / "expert") == 0
    assert report.after < 2 * TAU < report.before


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_general_lock_is_undone_to_a_part_of_the_fine_tuning(family, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": "general"})
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    tau = distance(root / "base", root / "expert")
    # What remains is gauge inside the heads, which are a large part of these small models.
    assert distance(tmp_path / "aligned", root / "expert") < 0.4 * tau
    assert distance(tmp_path / "locked", root / "expert") > 10 * tau


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
    assert distance(tmp_path / "aligned", root / "expert") > 10 * distance(
        root / "base", root / "expert"
    )


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_the_aligned_model_computes_what_the_locked_one_computes(kind, folders, tmp_path):
    from unmergeable.audit.equivalence import verify

    root = folders(FAMILIES[0])
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": kind})
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    assert verify(tmp_path / "locked", tmp_path / "aligned").same


def test_models_of_other_shapes_are_named(folders, tmp_path):
    llama, qwen = FAMILIES[0], next(f for f in FAMILIES if f.name == "llama-own-head-dim")
    with pytest.raises(InputError, match="not of one family"):
        align(folders(llama) / "expert", tmp_path / "out", folders(qwen) / "base")
