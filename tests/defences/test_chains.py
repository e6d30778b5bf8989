"""Chains of defences on disk: in order, each with its settings, undone together."""

import json

import numpy as np
import pytest

from tests.tiny import (
    LLAMA,
    add_tokenizer,
    content,
    llama,
    llama_weights,
    logits,
    save,
    weights_of,
    with_transformers,
)
from unmergeable.checkpoint.digest import file_digest
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import Link, read_manifest
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError, ManifestError
from unmergeable.keys.key import Key
from unmergeable.merging.merge import merge
from unmergeable.protection.protect import protect, record, unlock
from unmergeable.protection.recipe import LockRecipe
from unmergeable.verification.verify import verify

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
CHAINS = [
    ("mergelock", {}),
    ("params", {}),
    ("params+mergelock", {"low": "0.5", "high": "2"}),
    (
        "mergelock+params",
        {"params.variant": "symmetric", "low": "0.5", "high": "2", "mergelock.scale": "2"},
    ),
    ("lock+params+mergelock", {"kind": "general"}),
    ("params+lock", {"kind": "lossless"}),
]


@pytest.fixture
def models(tmp_path):
    """An expert `m` and its base `b`."""
    llama(tmp_path / "b")
    weights, random = llama_weights(), np.random.default_rng(1)
    for tensor in weights.values():
        tensor += 0.02 * random.normal(size=tensor.shape).astype(tensor.dtype) * tensor.std()
    save(tmp_path / "m", weights, LLAMA)
    return tmp_path


@pytest.mark.parametrize(("chain", "settings"), CHAINS, ids=str)
def test_a_chain_keeps_the_function_and_comes_back(models, chain, settings):
    report = protect(
        models / "m", models / "out", KEY, defence=chain, settings=settings, base=models / "b"
    )
    links = report.manifest.chain
    assert [link.defence for link in links] == chain.split("+")
    assert read_manifest(models / "out") == report.manifest
    wanted, found = logits(models / "m"), logits(models / "out")
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    before, locked = weights_of(models / "m"), weights_of(models / "out")
    assert sum((before[name] != locked[name]).any() for name in before) >= 8
    assert verify(models / "m", models / "out", key=KEY).same
    unlock(models / "out", models / "back", KEY)
    for name, tensor in weights_of(models / "back").items():
        gap = np.linalg.norm(tensor - before[name])
        assert gap <= 2e-6 * np.linalg.norm(before[name]), name


@pytest.mark.parametrize(("chain", "copies"), [("mergelock", 1), ("lock+mergelock", 3)])
@pytest.mark.parametrize("back", [False, True])
def test_the_copies_that_a_chain_holds_are_counted(models, chain, copies, back):
    links = protect(models / "m", models / "out", KEY, defence=chain).manifest.chain
    recipe = LockRecipe.of(open_folder(models / "m"), links, back=back, allow_non_finite=False)
    assert recipe.opened(KEY.secret).copies == copies


def test_the_order_of_a_chain_counts(models):
    for chain in ("lock+mergelock", "mergelock+lock"):
        protect(models / "m", models / chain, KEY, defence=chain)
    one, two = (weights_of(models / chain) for chain in ("lock+mergelock", "mergelock+lock"))
    name = "model.layers.0.self_attn.v_proj.weight"
    assert (one[name] != two[name]).any()


def test_a_secret_is_published_encrypted_alone(models):
    report = protect(models / "m", models / "out", KEY, defence="params", base=models / "b")
    (link,) = report.manifest.chain
    assert len(link.secret) > 40
    again = protect(models / "m", models / "again", KEY, defence="params", base=models / "b")
    assert content(models / "again") == content(models / "out")
    assert again.manifest.chain[0].secret == link.secret
    other = protect(models / "m", models / "other", OTHER, defence="params", base=models / "b")
    assert other.manifest.chain[0].secret != link.secret


def test_a_base_of_another_kind_is_refused(models):
    small = save(
        models / "small", {"model.norm.weight": np.ones(4, "<f4")}, {"model_type": "llama"}
    )
    with pytest.raises(InputError, match="are not models of one kind"):
        protect(models / "m", models / "out", KEY, defence="params", base=small)
    with pytest.raises(InputError, match="--base"):
        protect(models / "m", models / "out", KEY, defence="params")
    protect(models / "m", models / "out", KEY, defence="params", settings={"parts": "heads"})


@pytest.mark.parametrize(
    ("chain", "settings", "message"),
    [
        ("lock+wall", {}, "no defence 'wall'; there is lock, "),
        ("trap2", {}, "train --defence trap2"),
        ("mergeguard+lock", {}, "mergeguard is learned"),
        ("lock+lock", {}, "names a defence twice"),
        ("mergebarrier+lock", {}, "it must come last"),
        ("lock+mergelock", {"x": 1}, "no setting 'x'; it has lock.kind, "),
        ("lock+mergelock", {"params.low": 1}, r"no setting 'params\.low'"),
        ("mergebarrier", {}, "needs unlabelled data"),
        ("", {}, "no defence ''"),
    ],
)
def test_chains_that_cannot_be_are_refused(models, chain, settings, message):
    with pytest.raises(InputError, match=message):
        protect(models / "m", models / "out", KEY, defence=chain, settings=settings)
    assert not (models / "out").exists()


def test_a_peer_merges_under_the_key_of_a_chain(models):
    protect(models / "m", models / "out", KEY, defence="lock+mergelock")
    merge(
        [models / "out", models / "b"], models / "merged", "linear",
        parameters={"weight": 0.5}, key=KEY,
    )  # fmt: skip
    unlock(models / "merged", models / "back", KEY)
    m, b, back = (weights_of(models / name) for name in ("m", "b", "back"))
    for name, tensor in back.items():
        wanted = (m[name] + b[name]) / 2
        assert np.linalg.norm(tensor - wanted) <= 1e-6 * np.linalg.norm(wanted), name


def trained(folder):
    """What `unmergeable train` writes into a folder besides the model."""
    with Staging(folder.parent / "manifest", None) as staging:
        record(
            staging,
            [Link("trap2", {"strength": 0.1}, lasting=True)],
            {"family": "Llama", "class": "LlamaForCausalLM"},
        )
        staging.publish()
    (folder.parent / "manifest" / "unmergeable.json").rename(folder / "unmergeable.json")
    return folder


def test_what_was_trained_can_be_locked_and_stays_trained(models):
    trained(models / "m")
    report = protect(models / "m", models / "out", KEY)
    assert report.manifest.title == "trap2+lock"
    assert report.manifest.lossless
    back = unlock(models / "out", models / "back", KEY)
    assert back.exact
    assert [link.defence for link in back.lasting] == ["trap2"]
    assert content(models / "back") == content(models / "m")


def test_training_cannot_be_unlocked(models):
    trained(models / "m")
    with pytest.raises(ManifestError, match=r"trap2; its last defence trained.*no key undoes that"):
        unlock(models / "m", models / "out", KEY)
    json.loads((models / "m" / "unmergeable.json").read_text())


def test_a_barrier_is_the_end(tmp_path):
    model = add_tokenizer(with_transformers(tmp_path / "m", "bert"))
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\non the mat\n")
    report = protect(
        model, tmp_path / "out", KEY, defence="lock+mergebarrier", settings={"neurons": 0.5},
        data=texts,
    )  # fmt: skip
    assert report.manifest.title == "lock+mergebarrier"
    assert report.manifest.files == {
        path.name: file_digest(path)
        for path in (tmp_path / "out").iterdir()
        if path.name != "unmergeable.json"
    }
    with pytest.raises(ManifestError, match="changed the architecture"):
        unlock(tmp_path / "out", tmp_path / "back", KEY)
    assert verify(model, tmp_path / "out", tolerance=0.5).same
