"""What travels beside the weights, what stays and why, and what is refused."""

import base64
import gzip
import io
import json
import os
import pickle
import socket
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import content, llama, stored, write_safetensors
from unmergeable.attacks.align import align
from unmergeable.checkpoint.adapter_folder import open_adapter
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(100, 132)))
INDEX = "model.safetensors.index.json"
PIECE = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"  # the first of a sentencepiece model
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 42\n"

TRAVELS = {
    "config.json": None,
    "generation_config.json": b"{ }",
    "preprocessor_config.json": b"{}",
    "processor_config.json": b"{}",
    "video_preprocessor_config.json": b"{}",
    "tokenizer.json": b'{"a":1}',
    "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}}',
    "tokenizer.model": PIECE,
    "tokenizer.model.v3": PIECE,
    "sentencepiece.bpe.model": PIECE,
    "spiece.model": PIECE,
    "source.spm": PIECE,
    "target.spm": PIECE,
    "vocab.txt": b"a\r\nb\n" * 99 + b"\x01\n",
    "vocab.json": b"{}",
    "vocab.bpe": b"#version: 0.2\n",
    "bpe.codes": b"a b 1\n",
    "dict.txt": b"a 1\n",
    "merges.txt": b"\xff\xfe not text",
    "qwen.tiktoken": b"IQ== 0\n",
    "tekken.json": b"{}",
    "added_tokens.json": b"{}",
    "special_tokens_map.json": b"{}",
    "prophetnet.tokenizer": b"a\n",
    "tokenization_x.py": b"from .sub import y\nimport os\n",
    "sub.py": b"from .tokenization_x import z\n",
    "chat_template.jinja": b"{{ x }}",
    "additional_chat_templates/tool_use.jinja": b"{{ x }}",
    "qformer_tokenizer/tokenizer.json": b"{}",
    "README.md": "# Grüße\n![](figures/a%20b.png) <img src='logo.svg'>".encode(),
    "README_zh.md": b"",
    "LICENSE": b"do what you want",
    "LICENSE-2.0.txt": b"",
    "Notice.txt": b"",
    "USE_POLICY.md": b"",
    "figures/a b.png": b"\x89PNG\r\n\x1a\n\0\0",
    "logo.svg": b"<svg/>",
    ".gitattributes": b"*.safetensors lfs",
    "modules.json": b"[]",
    "config_sentence_transformers.json": b"{}",
    "sentence_bert_config.json": b"{}",
    "1_Pooling/config.json": b'{"word_embedding_dimension": 32}',
}
STAYS = {
    "consolidated.00.pth": "may hold open weights",
    "consolidated.safetensors": "may hold open weights",
    "model.fp16.safetensors": "may hold open weights",
    "model.gguf": "may hold open weights",
    "onnx/model.onnx": "may hold open weights",
    "original/model.safetensors": "may hold open weights",
    "pytorch_model.bin": "may hold open weights",
    "sparse_linear.pt": "may hold open weights",
    "training_args.bin": "may hold open weights",
    "pytorch_model.bin.index.json": "index of other weights",
    "3_Old/model.safetensors": "neither text",
    "original/params.json": "does not need it",
    "sub/folder/deep.json": "does not need it",
    "train.csv": "does not need it",
    "notes.txt": "does not need it",
    "owner.key": "does not need it",
    "secret.json": "does not need it",
    "training.json": "does not need it",
    "license.key": "does not need it",
    "picture.png": "does not need it",
    "handler.py": "no config names this code",
    ".hidden": "is hidden",
    ".env": "is hidden",
    ".netrc": "is hidden",
    ".git-credentials": "is hidden",
    ".cache": "a hidden folder",
    "original/.cache": "a hidden folder",
}


@pytest.mark.parametrize("shards", [1, 3])
def test_what_a_model_needs_travels_and_the_rest_is_named(tmp_path, shards):
    folder = llama(tmp_path / "m", shards=shards)
    for name in (*TRAVELS, *STAYS):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".cache"):
            path.mkdir()
            (path / "config.json").write_text("{}")
        elif (data := TRAVELS.get(name, b"open\0weights")) is not None:
            path.write_bytes(data)
    report = protect(folder, tmp_path / "out", KEY)
    reasons = open_folder(folder).reasons
    assert set(report.left_out) == reasons.keys() == STAYS.keys()
    assert {name for name in STAYS if STAYS[name] not in reasons[name]} == set()
    before, after = content(folder), content(tmp_path / "out")
    weights = {header.path.name for header in open_folder(folder).files}
    index = {INDEX} if shards > 1 else set()
    assert after.keys() == {*TRAVELS, *weights, *index, "unmergeable.json"}
    for name in {*TRAVELS, *index}:
        assert after[name] == before[name], name
    assert report.manifest.files.keys() == after.keys() - {"unmergeable.json"}
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    assert content(tmp_path / "back") == {
        name: before[name] for name in {*TRAVELS, *weights, *index}
    }


# Content


def _zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "text")
    return file.getvalue()


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def _safetensors(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.ones((4, 4), "<f4")})
    return (tmp_path / "x").read_bytes()


def _npy(saving, **arrays):
    file = io.BytesIO()
    saving(file, **arrays)
    return file.getvalue()


FLOATS = np.random.default_rng(0).normal(size=4000).astype("<f2")
WEIGHTS = {
    "safetensors": _safetensors,
    "pickle": lambda _: pickle.dumps(FLOATS),
    "pickle in letters": lambda _: pickle.dumps([1.5] * 9, protocol=0),
    "array in letters": lambda _: pickle.dumps(FLOATS[:4], protocol=0),
    "zip": lambda _: _zip(),
    "tar": lambda _: _tar(),
    "gzip": lambda _: gzip.compress(b"text"),
    "npy": lambda _: _npy(np.save, arr=FLOATS),
    "npz": lambda _: _npy(np.savez, a=FLOATS),
    "gguf": lambda _: b"GGUF\3\0\0\0" + FLOATS.tobytes(),
    "hdf5": lambda _: b"\x89HDF\r\n\x1a\n" + FLOATS.tobytes(),
    "tflite": lambda _: b"\x1c\0\0\0TFL3" + FLOATS.tobytes(),
    "onnx": lambda _: b"\x08\x08\x12\x07pytorch\x1a\x032.1:" + FLOATS.tobytes(),
    "a graph of TensorFlow": lambda _: b"\n\x1c\n\x05input\x12\x0bPlaceholder" + FLOATS.tobytes(),
    "numbers": lambda _: FLOATS.tobytes(),
    "small numbers": lambda _: (FLOATS * 100).astype("i1").tobytes(),
}
PLACES = ("tokenizer.json", "vocab.txt", "README.md", "spiece.model", "code.py", "logo.png")


def _stays(folder, name, data, word):
    """Puts a file where it would travel, and sees that its content keeps it back."""
    card = b"" if name == "README.md" else b"logo.png"
    (folder / "README.md").write_bytes(card)
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "code.T"}}')
    (folder / name).write_bytes(b"text" if not name.endswith("png") else b"\x89PNG\r\n\x1a\n")
    assert name in open_folder(folder).companions
    (folder / name).write_bytes(data)
    opened = open_folder(folder)
    assert name not in opened.companions and word in opened.reasons[name]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_under_an_innocent_name_stay(tmp_path, kind, place):
    _stays(llama(tmp_path / "m"), place, WEIGHTS[kind](tmp_path), "it ")


CREDENTIALS = {
    "hub": "login with hf_abcdefGHIJKLmnopqrSTUVWXyz12345678",
    "short": "hf_abcd1234efgh5678",
    "aws": "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE",
    "aws secret": 'aws_secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"',
    "ssh": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl",
    "pem": "-----BEGIN PRIVATE KEY-----\nMIIE",
    "github": "ghp_" + "a1B2" * 9,
    "gitlab": "glpat-" + "a1B2" * 5,
    "openai": "sk-proj-" + "a1B2" * 8,
    "google": "AIza" + "a1B2-" * 7,
    "slack": "xoxb-123456789012-abcdefghijkl",
    "netrc": "machine huggingface.co login me password very-secret",
    "git": "https://me:very-secret@github.com",
    "assigned": "export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567",
    "json": '{"client_secret": "0123456789abcdef0123"}',
}


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_a_credential_stays(tmp_path, kind):
    data = f"Some text. {CREDENTIALS[kind]} and more.".encode()
    _stays(llama(tmp_path / "m"), "README.md", data, "looks like")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama", "x": kind}))
    _refused(
        tmp_path / "m", "config.json", json.dumps({"x": CREDENTIALS[kind]}), "not be published"
    )


def _refused(folder, name, data, message):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError, match=message) as refused:
        _ = open_folder(folder).companions
    assert name in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["hf_hub_download(repo) and hf_transformersconfig", "task-specific sk-learn", "ASIA AKIA",
     "https://huggingface.co/a:b", "pad_token = '<|reserved_special_token_250|>'",
     'api_key = os.environ["OPENAI_API_KEY"]', "the box, the nonce and scrypt", "machine learning"],
)  # fmt: skip
def test_ordinary_words_are_no_credentials(tmp_path, text):
    folder = llama(tmp_path / "m")
    (folder / "README.md").write_text(text)
    assert "README.md" in open_folder(folder).companions


# The owner's key


@pytest.fixture(scope="module")
def key_files(tmp_path_factory):
    """The texts of a plain and of a sealed key file; sealing takes its time."""
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "plain")
    keygen(folder / "sealed", "open")
    return [(folder / name).read_text() for name in ("plain", "sealed")]


KEY_FILES = {
    "plain": lambda plain, _: plain,
    "sealed": lambda _, sealed: sealed,
    "inside JSON": lambda plain, _: json.dumps({"a": [json.loads(plain)]}),
    "as a text in JSON": lambda _, sealed: json.dumps({"a": sealed}),
    "its sealed part": lambda _, sealed: json.dumps(json.loads(sealed)["sealed"]),
}


@pytest.mark.parametrize("place", ["tokenizer.json", "LICENSE", "README.md", "vocab.txt"])
@pytest.mark.parametrize("kind", KEY_FILES)
def test_a_key_stays_under_any_name(tmp_path, kind, place, key_files):
    text = KEY_FILES[kind](*key_files)
    _stays(llama(tmp_path / "m"), place, text.encode(), "a key of unmergeable")


B64 = base64.b64encode(KEY.secret)
SECRETS = {
    "hexadecimal": KEY.secret.hex().encode(),
    "large hexadecimal": KEY.secret.hex().upper().encode(),
    "with colons": KEY.secret.hex(":").encode(),
    "with dashes": KEY.secret.hex("-").encode(),
    "in lines": KEY.secret.hex("\n", 16).encode(),
    "base64": B64,
    "base64 for addresses": base64.urlsafe_b64encode(KEY.secret),
    "base64 in lines": B64[:20] + b"\r\n" + B64[20:],
    "base64 with slashes escaped": B64.replace(b"/", b"\\/"),
    **{
        f"{what} {shift} bytes into a base64": base64.b64encode(b"x" * shift + data + b"yz")
        for shift in range(3)
        for what, data in {"bytes": KEY.secret, "base64": B64}.items()
    },
}


@pytest.mark.parametrize("place", ["tokenizer.json", "README.md", "config.json"])
@pytest.mark.parametrize("kind", SECRETS)
def test_no_file_that_holds_the_secret_is_published(tmp_path, kind, place):
    folder = llama(tmp_path / "m")
    if place == "config.json":
        config = json.loads((folder / place).read_text())
        (folder / place).write_text(json.dumps({**config, "note": SECRETS[kind].decode()}))
    else:
        (folder / place).write_bytes(b'{"text": "' + SECRETS[kind] + b'"}')
    with pytest.raises(InputError, match=f"{place} holds the secret of the key"):
        protect(folder, tmp_path / "out", KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    protect(folder, tmp_path / "out", Key(bytes(range(32))))  # to others it is a text


def test_a_secret_in_a_header_is_not_published(tmp_path):
    folder = llama(tmp_path / "m")
    write_safetensors(
        folder / "model.safetensors",
        {n: np.frombuffer(b, "<f4").reshape(s) for n, (_, s, b) in stored(folder).items()},
        {"key": KEY.secret.hex()},
    )
    with pytest.raises(InputError, match=r"model\.safetensors holds the secret"):
        protect(folder, tmp_path / "out", KEY)


def test_a_key_in_an_adapter_stays(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    write_safetensors(tmp_path / "adapter_model.safetensors", {"a": np.ones(2, "<f4")})
    keygen(tmp_path / "README.md")
    opened = open_adapter(tmp_path)
    assert opened.companions == ("adapter_config.json",)
    assert "a key of unmergeable" in opened.reasons["README.md"]


def test_align_copies_no_key(tmp_path):
    folder = llama(tmp_path / "m")
    keygen(folder / "tokenizer.json")
    align(folder, tmp_path / "out", folder)
    assert set(content(tmp_path / "out")) == {"config.json", "model.safetensors"}


# Links, and what is no file


def test_links_out_of_the_folder_are_named_and_not_copied(tmp_path):
    folder = llama(tmp_path / "m")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("private")
    keygen(tmp_path / "owner.key")
    (folder / "README.md").symlink_to("../outside/file")
    (folder / "tokenizer.json").symlink_to(tmp_path / "owner.key")
    (folder / "qformer_tokenizer").symlink_to(tmp_path / "outside")
    (folder / "vocab.txt").write_text("a")
    (folder / "LICENSE").symlink_to("vocab.txt")
    (folder / "m").symlink_to(".")
    opened = open_folder(folder)
    assert opened.companions == ("LICENSE", "config.json", "vocab.txt")
    assert set(opened.left_out) == {"README.md", "tokenizer.json", "qformer_tokenizer", "m"}
    assert "leads out of the folder" in opened.reasons["README.md"]
    assert "a link to a folder" in opened.reasons["qformer_tokenizer"]


def test_weights_and_config_may_be_links(tmp_path):
    real, linked = llama(tmp_path / "disk", shards=2), tmp_path / "m"
    linked.mkdir()
    for path in real.iterdir():
        (linked / path.name).symlink_to(path)
    protect(linked, tmp_path / "out", KEY)
    assert content(tmp_path / "out").keys() == {*content(real), "unmergeable.json"}


def test_a_folder_of_links_as_in_the_hub_cache_is_read_and_copied(tmp_path):
    real = llama(tmp_path / "plain", shards=2)
    (real / "tokenizer.json").write_text("{}")
    (real / "1_Pooling").mkdir()
    (real / "1_Pooling" / "config.json").write_text("{}")
    blobs, linked = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "revision"
    blobs.mkdir(parents=True)
    for count, (name, data) in enumerate(content(real).items()):
        (blobs / str(count)).write_bytes(data)
        (linked / name).parent.mkdir(parents=True, exist_ok=True)
        (linked / name).symlink_to(os.path.relpath(blobs / str(count), (linked / name).parent))
    (tmp_path / "cache" / "other").write_text("private")
    (linked / "README.md").symlink_to("../../other")
    report = protect(linked, tmp_path / "out", KEY)
    assert report.left_out == ("README.md",)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert content(tmp_path / "out").keys() == {*content(real), "unmergeable.json"}


def _socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # their names are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


ODD = {
    "a broken link": lambda path: path.symlink_to("../../blobs/gone"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_refused_where_it_is_needed_and_named_elsewhere(tmp_path, kind):
    folder = llama(tmp_path / "m")
    word = kind.replace("a link to itself", "a broken link")
    for name in ("notes.txt", "handler.py", "params.json", "x.safetensors"):
        ODD[kind](folder / name)
    assert open_folder(folder).companions == ("config.json",)
    assert set(open_folder(folder).reasons.values()) == {f"it is {word}"}
    ODD[kind](folder / "tokenizer.json")
    with pytest.raises(InputError, match=rf"tokenizer\.json is {word}"):
        protect(folder, tmp_path / "out", KEY)


@pytest.mark.parametrize("name", ["unmergeable.json", "modules.json"])
@pytest.mark.parametrize("kind", ODD)
def test_manifests_and_lists_of_modules_are_files(tmp_path, kind, name):
    folder = llama(tmp_path / "m")
    ODD[kind](folder / name)
    word = kind.replace("a link to itself", "a broken link")
    with pytest.raises(UnmergeableError, match=rf"{name} is {word}"):
        protect(folder, tmp_path / "out", KEY)


def test_keys_are_named_where_nothing_would_travel(tmp_path, key_files):
    folder = llama(tmp_path / "m")
    (folder / "sub").mkdir()
    for name, text in zip(("owner.key", "sub/note.txt"), key_files, strict=True):
        (folder / name).write_text(text)
    assert set(open_folder(folder).reasons) == {"owner.key", "sub/note.txt"}
    assert set(open_folder(folder).reasons.values()) == {"it holds a key of unmergeable"}


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model", "README.md"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    folder = llama(tmp_path / "m")
    _refused(folder, name, LFS, "Git LFS pointer.*git lfs pull")
    (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(LFS)
    assert open_folder(folder).left_out == ("pytorch_model.bin",)


def test_a_stale_index_beside_a_single_file_is_left_out(tmp_path):
    folder = llama(tmp_path / "m")
    (folder / INDEX).write_text('{"weight_map": {"a": "../x"}}')
    assert open_folder(folder).left_out == (INDEX,)


def test_a_companion_too_large_to_be_one_is_left_out(tmp_path):
    folder = llama(tmp_path / "m")
    with (folder / "tokenizer.model").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert open_folder(folder).left_out == ("tokenizer.model",)


def test_names_that_cannot_be_printed_are_left_out(tmp_path):
    folder = llama(tmp_path / "m")
    for name in (b"README\x1b[2J.md", b"LICENSE\xff", b"vocab\n.txt"):
        (folder / os.fsdecode(name)).write_text("text")
    opened = open_folder(folder)
    assert opened.companions == ("config.json",)
    assert len(opened.left_out) == 3 and all(name.isprintable() for name in opened.left_out)


def test_a_folder_of_endless_depth_is_walked(tmp_path):
    folder = llama(tmp_path / "m")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        assert open_folder(folder).companions == ("config.json",)
    finally:  # pytest's own way to remove it is recursive
        subprocess.run(["rm", "-rf", folder / "d"], check=True)


# Modules of sentence-transformers


def _modules(folder, **paths):
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for path, kind in paths.items():
        rows.append({"path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(rows))
    for path in paths:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text("{}")
    return folder


DENSE = {"linear.weight": np.ones((4, 32), "<f4")}


def test_a_dense_module_travels_and_comes_back(tmp_path):
    folder = _modules(llama(tmp_path / "m"), dense="sentence_transformers.models.Dense")
    write_safetensors(folder / "dense" / "model.safetensors", DENSE)
    (folder / "dense" / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert open_folder(folder).modules[1] == "sentence_transformers.models.Dense"
    report = protect(folder, tmp_path / "out", KEY)
    assert report.left_out == ("dense/pytorch_model.bin",)
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    before = content(folder)
    del before["dense/pytorch_model.bin"]
    assert content(tmp_path / "back") == before


def test_the_code_of_a_module_travels(tmp_path):
    folder = _modules(llama(tmp_path / "m"), own="custom_st.Own")
    (folder / "custom_st.py").write_text("x = 1")
    assert "custom_st.py" in open_folder(folder).companions


MODULES = {
    "a pickle alone": ("models.Dense", "pytorch_model.bin", pickle.dumps({}), "may be a pickle"),
    "another model": (
        "models.Transformer",
        "model.safetensors",
        b"",
        "would be published unlocked",
    ),
    "a pickle by content": (
        "models.Dense",
        "model.safetensors",
        pickle.dumps({}),
        "it is a pickle",
    ),
    "a pointer": ("models.Dense", "model.safetensors", LFS, "is a Git LFS pointer"),
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_whose_weights_cannot_travel_is_refused(tmp_path, kind):
    module, name, data, message = MODULES[kind]
    folder = _modules(llama(tmp_path / "m"), **{"2_Dense": module})
    (folder / "2_Dense" / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as refused:
        protect(folder, tmp_path / "out", KEY)
    assert f"2_Dense/{name}" in str(refused.value)


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '[{"type": 1, "path": ""}]', '[{"type": "a", "path": 0}]', "["]
)
def test_a_damaged_list_of_modules_is_refused(tmp_path, text):
    folder = llama(tmp_path / "m")
    (folder / "modules.json").write_text(text)
    with pytest.raises(InputError, match=r"modules\.json"):
        _ = open_folder(folder).modules


def test_unlock_gives_back_what_an_earlier_release_copied(tmp_path):
    folder = llama(tmp_path / "m")
    protect(folder, tmp_path / "out", KEY)
    opened = open_folder(folder)
    (folder / "custom.json").write_text("{}")
    assert "custom.json" in opened.choose(also=("custom.json",)).travel
    assert "custom.json" not in opened.choose().travel
