"""Model folders: what is accepted, and what is refused and how."""

import fnmatch
import json
import os
import pickle

import pytest

from tests.checkpoint.test_companions import TRAVELS
from tests.tiny import llama, llama_weights, stored, weights_of, write_safetensors
from unmergeable.checkpoint.companions import hub_patterns
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.hub import HubId, locate, resolve
from unmergeable.checkpoint.remote import RemotePath
from unmergeable.errors import DownloadError, InputError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(32))
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_a_single_file_is_read(tmp_path):
    folder = open_folder(llama(tmp_path / "m"))
    assert folder.config["model_type"] == "llama"
    assert [header.path.name for header in folder.files] == ["model.safetensors"]
    assert folder.companions == ("config.json",)
    assert folder.left_out == ()
    assert folder.shapes["model.norm.weight"] == (32,)
    assert folder.size == (tmp_path / "m" / "model.safetensors").stat().st_size


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    folder = open_folder(llama(tmp_path / "m", shards=2))
    assert [header.path.name for header in folder.files] == [FIRST, SECOND]
    assert list(folder.tensors) == list(llama_weights())
    assert folder.companions == ("config.json", INDEX)


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    def change(folder):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def _index(**changes):
    """Changes where the index puts tensors; a None takes one away."""

    def change(folder):
        index = json.loads((folder / INDEX).read_text())
        for name, file in changes.items():
            index["weight_map"].pop(name.replace("__", "."), None)
            if file is not None:
                index["weight_map"][name.replace("__", ".")] = file
        (folder / INDEX).write_text(json.dumps(index))

    return change


def _pickles(folder):
    for shard in (FIRST, SECOND, INDEX):
        (folder / shard).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def _adapter(folder):
    for file in list(folder.iterdir()):
        file.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    write_safetensors(folder / "adapter_model.safetensors", {})


def _duplicate_in_index(folder):
    text = (folder / INDEX).read_text()
    row = f'"lm_head.weight": "{FIRST}",'
    assert row in text
    (folder / INDEX).write_text(text.replace(row, row + row))


def _duplicate_in_files(folder):
    both = weights_of(folder)
    half = len(both) // 2
    names = list(llama_weights())
    write_safetensors(folder / SECOND, {n: both[n] for n in [names[0], *names[half:]]})


def _absolute(folder):
    elsewhere = folder.parent / "elsewhere.safetensors"
    elsewhere.write_bytes((folder / FIRST).read_bytes())
    _index(lm_head__weight=str(elsewhere))(folder)


def _outside(folder):
    (folder.parent / "outside.safetensors").write_bytes((folder / FIRST).read_bytes())
    _index(lm_head__weight="../outside.safetensors")(folder)


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 42\n"


def _pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def _folder(name):
    def change(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def _link(name, target):
    def change(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


BAD = {
    "no config": (_remove("config.json"), r"has no config\.json"),
    "config not JSON": (_write("config.json", "{"), r"config\.json cannot be read as JSON"),
    "config a list": (_write("config.json", "[]"), "not a JSON object"),
    "config not text": (_write("config.json", b"\xff\xfe\xff"), "cannot be read as JSON"),
    "config nested deeply": (_write("config.json", "[" * 100_000), "cannot be read as JSON"),
    "no index": (_remove(INDEX), f"{FIRST}, {SECOND}, but neither"),
    "index not JSON": (_write(INDEX, "{"), "is corrupt"),
    "index nested deeply": (_write(INDEX, "[" * 100_000), "is corrupt"),
    "index a list": (_write(INDEX, "[]"), "has no weight_map"),
    "index without a map": (_write(INDEX, '{"metadata": {}}'), "has no weight_map"),
    "index with an empty map": (_write(INDEX, '{"weight_map": {}}'), "has no weight_map"),
    "index with a list": (_write(INDEX, '{"weight_map": ["a"]}'), "has no weight_map"),
    "index names a missing file": (
        _index(lm_head__weight="model-00003-of-00002.safetensors"),
        "'model-00003-of-00002.safetensors', which is missing",
    ),
    "a shard is missing": (_remove(SECOND), f"{SECOND}', which is missing"),
    "index names a file outside": (_outside, "outside the folder"),
    "index names an absolute path": (_absolute, "outside the folder"),
    "index names a subfolder": (_index(lm_head__weight=f"sub/{FIRST}"), "outside the folder"),
    "index names the folder": (_index(lm_head__weight="."), "outside the folder"),
    "index names a number": (_index(lm_head__weight=5), "outside the folder"),
    "index names a pickle": (_index(lm_head__weight="m.bin"), "not safetensors"),
    "index names a null byte": (_index(lm_head__weight="\0.safetensors"), "missing"),
    "index names a tensor twice": (_duplicate_in_index, "'lm_head.weight' stands in it twice"),
    "a tensor is in two files": (_duplicate_in_files, "'lm_head.weight' stands in both"),
    "a tensor is in the other file": (_index(lm_head__weight=SECOND), f"is in '{FIRST}'"),
    "a tensor is not in the index": (_index(lm_head__weight=None), "'lm_head.weight' into None"),
    "a tensor is in no file": (_index(more=FIRST), "'more'.*but it is in None"),
    "a shard is truncated": (_write(SECOND, b"\x10"), f"{SECOND} is truncated"),
    "pickles only": (_pickles, r"pickles \(pytorch_model\.bin\)"),
    "an adapter only": (_adapter, "is an adapter"),
    "an adapter beside the model": (
        _write("adapter_config.json", "{}"),
        r"has an adapter beside the model \(adapter_config\.json\)",
    ),
    "config a pointer of git lfs": (_write("config.json", LFS), "is a Git LFS pointer"),
    "index a pointer of git lfs": (_write(INDEX, LFS), "is a Git LFS pointer"),
    "a shard a pointer of git lfs": (_write(SECOND, LFS), f"{SECOND} is a Git LFS pointer"),
    "config a pipe": (_pipe("config.json"), r"config\.json is a named pipe"),
    "index a pipe": (_pipe(INDEX), "is a named pipe"),
    "a shard a pipe": (_pipe(SECOND), f"{SECOND} is a named pipe"),
    "config a folder": (_folder("config.json"), r"config\.json is a folder"),
    "a shard a folder": (_folder(SECOND), f"{SECOND} is a folder"),
    "config a device": (_link("config.json", "/dev/zero"), r"config\.json is a device"),
    "a shard a device": (_link(SECOND, "/dev/zero"), f"{SECOND} is a device"),
    "config a broken link": (_link("config.json", "gone"), r"config\.json is a broken link"),
    "a shard a broken link": (_link(SECOND, "../blobs/gone"), f"{SECOND} is a broken link"),
    "config too large": (_write("config.json", b" " * ((16 << 20) + 1)), "the most that is read"),
    "config of endless lists": (_write("config.json", "[" + "[]," * (2 << 20)), "too many to read"),
    "config of endless digits": (
        _write("config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
        "the number 9+…9+ has 5,000 digits",
    ),
    "index with an endless name": (
        _write(INDEX, json.dumps({"weight_map": {"a" * (1 << 20): "b" * (1 << 20)}})),
        "aaa….* into 'bbb",
    ),
    "index with endless lists": (
        _write(INDEX, '{"weight_map": {"a": ' + "[" * 800 + "]" * 800 + "}}"),
        r"'a' into \[\[",
    ),
}


def _names(folder):
    return {path.name: path.lstat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_folder_is_refused_and_nothing_is_written(tmp_path, bad):
    damage, message = BAD[bad]
    folder = llama(tmp_path / "m", shards=2)
    damage(folder)
    before = _names(folder)
    with pytest.raises(InputError, match=message) as refused:
        open_folder(folder)
    assert len(str(refused.value)) < 1000 and str(refused.value).isprintable()
    with pytest.raises(InputError, match=message):
        protect(folder, tmp_path / "out", KEY)
    assert _names(folder) == before
    assert not {"out", ".out.partial"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["absent", "config.json"])
def test_what_is_not_a_folder_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is not a folder"):
        open_folder(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        open_folder(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no safetensors weights"):
        open_folder(tmp_path)


@pytest.mark.parametrize("model", ["no-folder", "a/b/c", "../absent", "/absent", ""])
def test_neither_folder_nor_id_is_refused(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if not model:  # the current folder
        with pytest.raises(InputError):
            open_folder(resolve(model))
        return
    with pytest.raises(InputError, match="neither a folder nor a Hub id"):
        resolve(model)


IDS = {
    "owner/name": ("owner/name", None),
    "owner/name@v1.0": ("owner/name", "v1.0"),
    "hf://owner/name": ("owner/name", None),
    "hf://owner/name@main": ("owner/name", "main"),
    "https://huggingface.co/owner/name": ("owner/name", None),
    "https://huggingface.co/owner/name/": ("owner/name", None),
    "http://www.huggingface.co/owner/name?library=x#use": ("owner/name", None),
    "https://hf.co/owner/name/tree/main": ("owner/name", "main"),
    "huggingface.co/owner/name/blob/v2/config.json": ("owner/name", "v2"),
    "https://huggingface.co/owner/name/tree/refs%2Fpr%2F3": ("owner/name", "refs/pr/3"),
    "https://user:secret@huggingface.co/owner/name": ("owner/name", None),
    "HTTPS://HuggingFace.co/owner/name/discussions/7": ("owner/name", None),
}


@pytest.mark.parametrize("find", [resolve, locate])
@pytest.mark.parametrize("given", IDS)
def test_what_people_paste_is_taken_as_an_id(monkeypatch, tmp_path, given, find):
    import huggingface_hub

    asked = []

    def download(name, revision=None, **more):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert find(given) == tmp_path
    assert asked == [IDS[given]]


@pytest.mark.parametrize(
    "page",
    ["https://huggingface.co/gpt2", "https://huggingface.co/datasets/owner/name", "hf.co/",
     "https://user:secret@huggingface.co/owner/name/tree/main/onnx"],
)  # fmt: skip
def test_a_page_that_is_no_model_is_refused(page):
    with pytest.raises(InputError, match="Hub id: owner/name") as refused:
        resolve(page)
    assert "secret" not in str(refused.value)


def test_a_folder_goes_before_an_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "owner/name@v1", "hf.co/owner"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        assert resolve(name).resolve() == folder


def test_other_addresses_stay_addresses():
    assert locate("memory://bucket/model") == RemotePath("memory://bucket/model")
    for path in ("hf://owner/name/part", "hf://datasets/owner/name"):
        assert HubId.of(path) is None


def test_what_is_fetched_is_what_travels():
    """By the matching of `snapshot_download`, in which a star fits slashes, too."""
    patterns = hub_patterns()
    wanted = (*TRAVELS, "model.safetensors", "model-00001-of-00002.safetensors", "figure/a.png")
    for name in wanted:
        assert any(fnmatch.fnmatch(name, one) for one in patterns), name
    for name in ("pytorch_model.bin", "model.gguf", ".env", "owner.key", "training_args.bin"):
        assert not any(fnmatch.fnmatch(name, one) for one in patterns), name


@pytest.mark.parametrize("message", ["no network", ""])
def test_a_download_that_fails_is_an_error_of_ours(monkeypatch, message):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise ConnectionError(message)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DownloadError, match=r"owner/name.*(no network|ConnectionError)"):
        resolve("owner/name")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_headers_shards_and_order_stay(tmp_path, shards, dtype):
    folder = llama(tmp_path / "m", dtype, shards)
    protect(folder, tmp_path / "out", KEY)
    for path in folder.glob("*.safetensors"):
        before, after = path.read_bytes(), (tmp_path / "out" / path.name).read_bytes()
        end = 8 + int.from_bytes(before[:8], "little")
        assert after[:end] == before[:end]
        assert len(after) == len(before)
        assert after != before


def test_the_order_of_tensors_is_that_of_their_bytes(tmp_path):
    """A header may list them in any order."""
    folder = llama(tmp_path / "m")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + size])
    mixed = json.dumps(dict(sorted(table.items(), reverse=True))).encode().ljust(size)
    assert len(mixed) == size
    path.write_bytes(raw[:8] + mixed + raw[8 + size :])
    assert list(open_folder(folder).tensors) == list(llama_weights())
    plain = llama(tmp_path / "plain")
    protect(folder, tmp_path / "out", KEY, settings={"line": "x"})
    protect(plain, tmp_path / "out plain", KEY, settings={"line": "x"})
    assert stored(tmp_path / "out") == stored(tmp_path / "out plain")


@pytest.mark.parametrize("tensor", ["lm_head.weight", "model.norm.weight"])
def test_a_tensor_that_is_cut_while_it_is_read_is_named(tmp_path, tensor, monkeypatch):
    import os

    folder = llama(tmp_path / "m")
    entry = open_folder(folder).tensors[tensor]
    plain = os.preadv

    def cut(descriptor, buffers, start):
        return (
            0
            if entry.start <= start < entry.start + entry.size
            else plain(descriptor, buffers, start)
        )

    monkeypatch.setattr(os, "preadv", cut)
    with pytest.raises(InputError, match=tensor):
        protect(folder, tmp_path / "out", KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
