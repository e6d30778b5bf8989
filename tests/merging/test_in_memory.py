"""Our own methods on model folders, openly and under a key."""

import numpy as np
import pytest
import torch

from tests.tiny import LLAMA, NUMBERS, llama_weights, save, weights_of
from unmergeable.architectures.layout import Layout
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.merging.in_memory import refusal
from unmergeable.merging.merge import merge
from unmergeable.merging.method import Ingredients
from unmergeable.merging.methods import OWN
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(32)))
SETTINGS = {"wudi": {"steps": 3}, "mdm_oc": {"weight": [0.7, 0.4], "order": [1, 0]}}
FOLDERS = [name for name, method in OWN.items() if not refusal(method)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    base = llama_weights()
    for name, seed in (("base", None), ("mine", 1), ("theirs", 2)):
        weights = base
        if seed is not None:
            change = llama_weights(seed)
            weights = {n: (w + np.float32(0.1) * change[n]).astype("<f4") for n, w in base.items()}
        save(folder / name, weights, LLAMA)
    protect(folder / "mine", folder / "locked", KEY, settings={"scales": "false"})
    half = {n: w.astype(NUMBERS["BF16"]) for n, w in weights_of(folder / "mine").items()}
    save(folder / "half", half, LLAMA)
    return folder


def merged(zoo, out, name, *models, key=None, **settings):
    return merge(
        [zoo / model for model in models],
        out,
        name,
        base=zoo / "base",
        parameters=SETTINGS.get(name, {}) | settings,
        key=key,
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_the_methods_merge_rounded_once(tmp_path, zoo, name):
    report = merged(zoo, tmp_path / "out", name, "half", "theirs")
    assert (report.method, report.locked) == (name, False)
    states = [
        {n: torch.tensor(w.astype("<f4")) for n, w in weights_of(zoo / model).items()}
        for model in ("base", "half", "theirs")
    ]
    layout = Layout.of(LLAMA, {n: t.shape for n, t in states[0].items()})
    wanted = OWN[name](Ingredients(states[1:], states[0], layout), **SETTINGS.get(name, {})).state
    found = weights_of(tmp_path / "out")
    assert found.keys() == wanted.keys()
    for tensor_name, tensor in wanted.items():
        assert found[tensor_name].dtype == NUMBERS["BF16"]
        assert found[tensor_name].tobytes() == (
            tensor.contiguous().numpy().astype(NUMBERS["BF16"]).tobytes()
        )


@pytest.mark.parametrize("name", FOLDERS)
def test_a_merge_under_the_key_unlocks_to_the_open_merge(tmp_path, zoo, name):
    """The lock here permutes and flips signs, with which these merges commute."""
    merged(zoo, tmp_path / "open", name, "mine", "theirs")
    report = merged(zoo, tmp_path / "merged", name, "locked", "theirs", key=KEY)
    assert report.locked and len(report.moved) == 2
    unlock(tmp_path / "merged", tmp_path / "out", KEY)
    wanted, found = (weights_of(tmp_path / folder) for folder in ("open", "out"))
    for tensor_name in wanted:
        gap = np.linalg.norm(found[tensor_name] - wanted[tensor_name])
        assert gap <= 1e-4 * np.linalg.norm(wanted[tensor_name]), tensor_name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("regmean", {}, r"regmean needs inputs of the models' tasks.*`unmergeable audit` runs it"),
        ("mergetune", {}, "mergetune needs labelled inputs"),
        ("emr", {}, "emr deploys one model for each task"),
        ("smile", {}, "smile deploys another network"),
        ("soup", {}, "no merge method 'soup'; there is .*task_arithmetic.*tsv"),
        ("tsv", {"wait": 1}, "tsv has no parameter 'wait'; it has weight"),
        ("tsv", {"weight": [1, 2, 3]}, "one for each of the 2 models"),
        ("iso_cts", {"common": "all"}, "iso_cts cannot merge these models"),
        ("knots", {"keep": 0}, "keep is a share"),
    ],
)
def test_what_cannot_be_done_on_folders_is_refused(tmp_path, zoo, name, settings, message):
    with pytest.raises(InputError, match=message):
        merged(zoo, tmp_path / "out", name, "mine", "theirs", **settings)
    assert not list(tmp_path.iterdir())


def test_our_own_need_the_base(tmp_path, zoo):
    with pytest.raises(InputError, match="tsv needs the base model: pass --base"):
        merge([zoo / "mine", zoo / "theirs"], tmp_path / "out", "tsv")
