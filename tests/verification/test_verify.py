"""Verify: the same is found the same, and small differences are found."""

import json
import math
import os
import shlex
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.architectures.float8 import family_named
from tests.checkpoint.test_remote import upload
from tests.tiny import (
    LLAMA,
    add_tokenizer,
    llama,
    llama_weights,
    save,
    weights_of,
    with_transformers,
    write_safetensors,
)
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.remote import RemotePath
from unmergeable.cli import main
from unmergeable.errors import InputError, KeyFileError, ManifestError, UnsupportedError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.protect import protect
from unmergeable.verification import output_comparison
from unmergeable.verification.verify import OutputComparison, verify
from unmergeable.verification.weight_comparison import WEIGHT_UNITS, compare_weights

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(32))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for kind in ("llama", "bert", "vit"):
        model = folder / kind
        llama(model) if kind == "llama" else with_transformers(model, kind)
        for lock in ("lossless", "general"):
            protect(model, folder / f"{kind} {lock}", KEY, settings={"kind": lock})
    return folder


def changed(zoo, out, kind, change):
    """A copy of a model with its weights changed."""
    out.mkdir()
    for path in (zoo / kind).iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    weights = weights_of(out)
    change(weights)
    write_safetensors(out / "model.safetensors", weights, {"format": "pt"})
    return out


@pytest.mark.parametrize("name", ["llava", "gemma3-images", "mistral3", "idefics3", "qwen2-vl"])
def test_a_model_that_sees_is_run_on_text_and_says_so(name, tmp_path):
    family_named(name).build().save_pretrained(tmp_path / "open")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    report = verify(tmp_path / "open", tmp_path / "locked", key=KEY)
    assert report.same and report.outputs.top1_agreement == 1.0
    assert report.outputs.inputs.endswith("without images")


@pytest.mark.parametrize("kind", ["llama", "bert", "vit"])
def test_a_model_is_itself_exactly(zoo, kind):
    report = verify(zoo / kind, zoo / kind)
    assert report.same
    assert report.weights is None
    outputs = report.outputs
    assert outputs.max_difference == outputs.relative == 0.0
    assert outputs.scale > 0.1
    if kind == "bert":
        assert outputs.what == "last_hidden_state"
        assert outputs.mean_kl is None and outputs.top1_agreement is None
        assert outputs.values == 16 * sum(range(8, 32, 3))  # padding does not count
    else:
        assert outputs.what == "logits"
        assert outputs.mean_kl == 0.0 and outputs.top1_agreement == 1.0
    assert ("images" if kind == "vit" else "random tokens") in outputs.inputs


@pytest.mark.parametrize("lock", ["lossless", "general"])
@pytest.mark.parametrize("kind", ["llama", "bert", "vit"])
def test_a_locked_model_is_the_same(zoo, kind, lock):
    report = verify(zoo / kind, zoo / f"{kind} {lock}", key=KEY)
    assert report.same
    assert 0 < report.outputs.relative < 1e-5
    assert report.outputs.tolerance == 1e-4
    weights = report.weights
    if lock == "lossless":
        assert weights.identical == weights.tensors == len(weights_of(zoo / kind))
        assert weights.max_difference == weights.tolerance == 0.0 and weights.worst == ""
    else:
        assert 0 < weights.identical < weights.tensors
        assert 0 < weights.max_difference < weights.tolerance < 1e-6
        assert weights.worst in weights_of(zoo / kind)


CHANGES = {
    "head scaled by 1.01": ("llama", "lm_head.weight", lambda w: w.__imul__(1.01)),
    "two neurons of one side exchanged": (
        "llama",
        "model.layers.0.mlp.up_proj.weight",
        lambda w: w.__setitem__(slice(0, 2), w[[1, 0]]),
    ),
    "one sign": ("llama", "model.norm.weight", lambda w: w.__setitem__(3, -w[3])),
    "NaN": ("llama", "model.norm.weight", lambda w: w.__setitem__(3, np.nan)),
    "infinity": ("llama", "lm_head.weight", lambda w: w.__setitem__((3, 3), np.inf)),
    "encoder's first layer": (
        "bert",
        "encoder.layer.0.intermediate.dense.weight",
        lambda w: w.__imul__(1.05),
    ),
    "patch embedding": (
        "vit",
        "vit.embeddings.patch_embeddings.projection.weight",
        lambda w: w.__imul__(1.02),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(tmp_path, zoo, change):
    kind, name, edit = CHANGES[change]
    other = changed(zoo, tmp_path / "other", kind, lambda weights: edit(weights[name]))
    report = verify(zoo / kind, other)
    assert not report.same
    outputs = report.outputs
    if change in ("NaN", "infinity"):
        assert not math.isfinite(outputs.max_difference)
        assert not math.isfinite(outputs.mean_kl)
        return
    assert outputs.relative > outputs.tolerance
    if change == "head scaled by 1.01":
        assert outputs.relative == pytest.approx(0.01, rel=1e-3)
        assert outputs.top1_agreement == 1.0
        assert 0 < outputs.mean_kl < 1e-3
    assert verify(zoo / kind, other, tolerance=10.0).same


@pytest.mark.parametrize("change", ["lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_the_key_finds_a_change_of_weights_and_names_it(tmp_path, zoo, change):
    def edit(weights):
        weights[change][0, 0] *= np.float32(1 + 2**-20)

    other = changed(zoo, tmp_path / "other", "llama lossless", edit)
    report = verify(zoo / "llama", other, key=KEY)
    assert not report.same
    assert report.outputs.same  # too small a change to be seen there
    assert report.weights.worst == change
    assert report.weights.identical == report.weights.tensors - 1
    assert 0 < report.weights.max_difference < 1e-5


@pytest.mark.parametrize(("defence", "uneven"), [("mergelock", False), ("params", True)])
def test_what_rounding_costs_under_a_lock_is_allowed_and_no_more(tmp_path, zoo, defence, uneven):
    """PaRaMS' third variant is ill-conditioned: so much of a weight its rounding takes."""
    model = zoo / "bert"
    more = {"base": model, "settings": {"variant": "nonsymmetric", "line": "x"}} if uneven else {}
    protect(model, tmp_path / "locked", KEY, defence=defence, **more)
    weights = verify(model, tmp_path / "locked", key=KEY).weights
    assert weights.same and weights.exceeded == ()
    assert (weights.max_difference > WEIGHT_UNITS * 2**-24) == uneven
    assert weights.max_difference <= weights.tolerance < 5e-5
    name = "encoder.layer.0.attention.self.value.weight"
    other = changed(tmp_path, tmp_path / "other", "locked", lambda w: w[name].__imul__(1.0001))
    weights = verify(model, other, key=KEY).weights
    assert not weights.same and weights.exceeded == (name,)


def test_weights_of_another_architecture_are_not_compared_and_the_reason_is_said(tmp_path, zoo):
    other = changed(zoo, tmp_path / "other", "llama lossless", lambda weights: None)
    config = json.loads((other / "config.json").read_text("utf-8"))
    config |= {"architectures": ["Rebuilt"], "mergebarrier": {}}
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match=r"Rebuilt is another architecture .* Leave the key out"):
        verify(zoo / "llama", other, key=KEY)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_comparing_weights_reads_each_folder_once(kind, tmp_path, monkeypatch):
    """All bytes of all tensors of both, and none of them again."""
    llama(tmp_path / "open", shards=2)
    protect(tmp_path / "open", tmp_path / "locked", KEY, settings={"kind": kind})
    counts, plain = Counter(), os.preadv

    def counted(descriptor, pieces, position):
        count = plain(descriptor, pieces, position)
        counts[Path(f"/proc/self/fd/{descriptor}").readlink().parent.name] += count
        return count

    monkeypatch.setattr("unmergeable.checkpoint.source.os.preadv", counted)
    folders = [open_folder(tmp_path / name) for name in ("open", "locked")]
    assert compare_weights(*folders, KEY).same
    size = sum(entry.size for entry in folders[0].tensors.values())
    assert counts == {"open": size, "locked": size}


def test_weights_in_another_dtype_are_compared(tmp_path):
    """A locked model that was converted to bfloat16 since is near the original, not equal."""
    model = llama(tmp_path / "m")
    protect(model, tmp_path / "locked", KEY)
    weights = {n: w.astype(llama_weights(dtype="BF16")[n].dtype)
               for n, w in weights_of(tmp_path / "locked").items()}  # fmt: skip
    write_safetensors(tmp_path / "locked" / "model.safetensors", weights)
    report = verify(model, tmp_path / "locked", key=KEY)
    assert not report.same
    assert 1e-4 < report.weights.max_difference < 1e-2


def test_a_buffer_that_differs_is_named(tmp_path):
    model = with_transformers(tmp_path / "m", "bert")
    ids = np.arange(64, dtype="<i8")[None]
    weights = weights_of(model) | {"embeddings.position_ids": ids}
    write_safetensors(model / "model.safetensors", weights, {"format": "pt"})
    protect(model, tmp_path / "locked", KEY)
    locked = weights_of(tmp_path / "locked")
    locked["embeddings.position_ids"] = ids + 1
    write_safetensors(tmp_path / "locked" / "model.safetensors", locked, {"format": "pt"})
    report = verify(model, tmp_path / "locked", key=KEY)
    assert not report.same
    assert report.weights.worst == "embeddings.position_ids"


def test_bfloat16_is_given_its_rounding_in_the_general_lock_alone(tmp_path):
    model = llama(tmp_path / "m", "BF16")
    for lock, tolerance in (("lossless", 1e-4), ("general", 16 * 2.0**-8)):
        protect(model, tmp_path / lock, KEY, settings={"kind": lock})
        report = verify(model, tmp_path / lock, key=KEY)
        assert report.outputs.tolerance == tolerance
        assert report.same
        assert report.outputs.top1_agreement > 0.8


def test_prompts_are_run_where_there_is_a_tokenizer(tmp_path, zoo):
    model = add_tokenizer(llama(tmp_path / "m"))
    protect(model, tmp_path / "locked", KEY)
    report = verify(model, tmp_path / "locked")
    assert report.same
    assert report.outputs.inputs == "8 built-in prompts, 4 sequences of random tokens"
    text = tmp_path / "prompts.txt"
    text.write_text("the cat sat on the mat\n\n  \nthe dog ran\n")
    report = verify(model, tmp_path / "locked", text=text)
    assert report.same and report.outputs.inputs == "2 given prompts"
    assert report.outputs.values == (6 + 3) * 64
    assert verify(model, model, text=["the cat"]).outputs.values == 2 * 64


def test_a_prompt_longer_than_the_model_is_cut(tmp_path):
    model = add_tokenizer(with_transformers(tmp_path / "m", "bert"))
    report = verify(model, model, text=["the cat " * 100])
    assert report.same
    assert report.outputs.values == 64 * 16


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the prompts"), (b" \n\n", "no line of text"), (b"\xff\n", "cannot read")],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path, zoo, content, message):
    text = tmp_path / "prompts.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=message):
        verify(zoo / "llama", zoo / "llama", text=text)


def test_text_needs_a_tokenizer(tmp_path, zoo):
    with pytest.raises(InputError, match="has no tokenizer"):
        verify(zoo / "llama", zoo / "llama", text=["the cat"])


def test_models_of_other_shapes_are_not_compared(tmp_path, zoo):
    config = LLAMA | {"intermediate_size": 56}
    other = save(tmp_path / "other", llama_weights(config=config), config)
    with pytest.raises(InputError, match=r"not the same model.*model\.layers\.0\.mlp\.down_proj"):
        verify(zoo / "llama", other)


def test_keys_are_checked(zoo):
    with pytest.raises(KeyFileError, match="was protected with the key"):
        verify(zoo / "llama", zoo / "llama lossless", key=OTHER)
    with pytest.raises(ManifestError, match="has no unmergeable"):
        verify(zoo / "llama", zoo / "llama", key=KEY)


def test_a_class_that_transformers_lacks_is_unsupported(tmp_path):
    model = llama(tmp_path / "m", architectures=["LlamaForTea"])
    with pytest.raises(UnsupportedError, match="LlamaForTea"):
        verify(model, model)


def test_a_model_that_transformers_cannot_load_is_refused(tmp_path):
    model = llama(tmp_path / "m", hidden_act="no such thing")
    with pytest.raises(InputError, match="transformers cannot load"):
        verify(model, model)


@pytest.mark.parametrize(
    ("rms", "largest", "same"),
    [(0.9, 9.0, True), (1.1, 1.1, False), (0.1, 11.0, False), (math.nan, 0.0, False)],
    ids=["within both", "off on the whole", "one output far off", "not a number"],
)
def test_the_verdict_looks_at_the_whole_and_at_the_worst(rms, largest, same):
    unit = 1e-4
    outputs = OutputComparison(
        "logits", "prompts", 10, 2.0, 2.0 * largest * unit, 0.0, 1.0, rms * unit, unit
    )
    assert outputs.same == same


@pytest.mark.parametrize(
    ("largest", "rounding", "same"),
    [(2e-3, None, False), (2e-3, 3e-4, True), (2e-3, 2e-4, False), (2e-2, 1.0, False)],
)
def test_outputs_that_rounding_alone_changes_may_differ_by_some_times_that(largest, rounding, same):
    found = OutputComparison("logits", "", 1, 1.0, largest, 0.0, 1.0, 1e-6, 1e-4, rounding=rounding)
    assert found.same == same


def test_a_few_outputs_far_off_are_held_against_the_originals_own_rounding(
    tmp_path, zoo, monkeypatch
):
    locked = zoo / "llama lossless"
    rms = verify(zoo / "llama", locked, seed=0).outputs.rms_difference
    monkeypatch.setattr(output_comparison, "PEAK", 0.0)
    tight = verify(zoo / "llama", locked, seed=0, tolerance=1.1 * rms)
    assert tight.outputs.relative > tight.outputs.tolerance
    assert 0 < tight.outputs.rounding < 1e-6 and tight.same

    def edit(weights):  # one word's logits, as far off as the tolerance lets them be
        name = "lm_head.weight"
        weights[name][3] *= 1 + 2e-5

    other = changed(zoo, tmp_path / "other", "llama", edit)
    rms = verify(zoo / "llama", other, seed=0).outputs.rms_difference
    wrong = verify(zoo / "llama", other, seed=0, tolerance=1.1 * rms)
    assert wrong.outputs.rounding is not None and not wrong.same


def test_a_tolerance_for_rounding_bounds_single_outputs_as_well():
    def off(by):
        return OutputComparison("logits", "prompts", 10, 1.0, by, 0.0, 1.0, 0.01, 0.06)

    assert off(0.05).same and not off(0.07).same


# At addresses


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where downloads go for a while."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_the_command_that_protect_prints_works_at_addresses(tmp_path, temporary, capsys):
    url, key = f"memory://{tmp_path.name}", tmp_path / "key"
    keygen(key)
    upload(add_tokenizer(llama(tmp_path / "m", shards=2)), f"{url}/m")
    assert main(["protect", f"{url}/m", f"{url}/out", "--key", str(key)]) == 0
    printed = capsys.readouterr().out.partition("Check it: unmergeable ")[2]
    assert main(shlex.split(printed)) == 0
    out, err = capsys.readouterr()
    assert "built-in prompts" in out
    assert "21 of 21 tensors identical" in out
    assert f"{url}/m will be downloaded into the temporary folder" in err
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("lock", ["lossless", "general"])
def test_what_is_found_at_addresses_is_what_is_found_here(zoo, tmp_path, temporary, lock):
    def change(weights):
        weights["model.norm.weight"][:] *= 1.5

    other = changed(zoo, tmp_path / "other", "llama", change)
    for here in (zoo / "llama", other):
        url = upload(here, f"memory://{tmp_path.name}/{here.name}")
        locked = upload(zoo / f"llama {lock}", f"memory://{tmp_path.name}/locked")
        there = verify(url, locked, key=KEY, seed=0)
        assert there == verify(here, zoo / f"llama {lock}", key=KEY, seed=0)
        assert there.same == (here.name == "llama")


def test_weights_at_an_address_are_asked_for_once(zoo, tmp_path, monkeypatch):
    """Piece by piece would be a request for each; the whole file would not fit on a disk."""
    asked = Counter()
    plain = TensorReader.part

    def count(self, entry):
        asked[self.folder.path, entry.name] += 1
        return plain(self, entry)

    monkeypatch.setattr(TensorReader, "part", count)
    monkeypatch.setattr("unmergeable.verification.stored_distance._TOGETHER", 100)
    folders = [
        open_folder(locate(upload(zoo / name, f"memory://{tmp_path.name}/{n}")))
        for n, name in enumerate(("llama", "llama lossless"))
    ]
    assert compare_weights(*folders, KEY).same
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * len(folders[0].tensors)


def test_a_store_that_fails_while_weights_are_compared_is_named(zoo, tmp_path, monkeypatch):
    urls = [f"memory://{tmp_path.name}/{n}" for n in "ml"]
    folders = [
        open_folder(locate(upload(zoo / name, url)))
        for name, url in zip(("llama", "llama lossless"), urls, strict=True)
    ]

    def fail(self, start, stop):
        raise OSError(5, "Service Unavailable", str(self))

    manifest = (zoo / "llama lossless" / "unmergeable.json").read_bytes()
    monkeypatch.setattr(RemotePath, "read_bytes", lambda self, size: manifest)
    monkeypatch.setattr(RemotePath, "read_range", fail)
    with pytest.raises(InputError, match=rf"cannot read {urls[0][:-1]}.*: Service Unavailable"):
        compare_weights(*folders, KEY)


def test_a_model_that_the_temporary_folder_has_no_room_for_is_refused_at_once(
    zoo, tmp_path, temporary, monkeypatch
):
    locked = upload(zoo / "llama lossless", f"memory://{tmp_path.name}/locked")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr("unmergeable.verification.verify.load_model", None)
    with pytest.raises(InputError, match=rf"{temporary} needs .* GB, its disk has 0\.00 GB free"):
        verify(zoo / "llama", locked)


def test_what_cannot_be_loaded_is_named_by_its_address(zoo, tmp_path, temporary):
    config = json.loads((zoo / "llama" / "config.json").read_text())
    config["attn_implementation"] = "some/kernel"
    url = upload(zoo / "llama", f"memory://{tmp_path.name}/m")
    (RemotePath(url) / "config.json").write_bytes(json.dumps(config).encode())
    with pytest.raises(InputError, match=rf"^{url}/config\.json asks for code"):
        verify(url, zoo / "llama lossless")
    assert not list(temporary.iterdir())
