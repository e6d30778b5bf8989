"""Headers: what safetensors writes is read, what it refuses is refused in a sentence of ours."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.tiny import NAMES, NUMBERS
from unmergeable.checkpoint import small_files
from unmergeable.checkpoint.header import DTYPE_BITS, Header, read_header
from unmergeable.errors import InputError

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = [np.dtype(t) for t in ("<f8", "<f4", "<f2", "<i8", "u1", "?")]
OTHER_NAMES = {np.dtype("u1"): "U8", np.dtype("?"): "BOOL"}

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    shapes,
    st.sampled_from(PLAIN),
    st.integers(0, 99),
)


def raw(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A file with a header as given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


def read(folder, content: bytes) -> Header:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return read_header(path)


@SHARED_FOLDER
@given(
    tensors=st.dictionaries(names, arrays, min_size=1, max_size=5),
    metadata=st.none() | st.dictionaries(st.text("abc", max_size=3), st.text("äöü€", max_size=3)),
)
def test_what_safetensors_writes_is_read_as_safetensors_reads_it(tmp_path, tensors, metadata):
    content = save(tensors, metadata)
    header = read(tmp_path, content)
    found = {entry.name: entry for entry in header.tensors}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        entry = found[name]
        assert entry.shape == array.shape
        assert entry.dtype == {**NAMES, **OTHER_NAMES}[array.dtype]
        assert content[entry.start : entry.start + entry.size] == array.tobytes()
    assert content.startswith(header.raw)
    assert header.file_size == len(content)
    starts = [entry.start for entry in header.tensors]
    assert starts == sorted(starts)


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_of_safetensors_is_known(tmp_path, dtype):
    size = 8 * DTYPE_BITS[dtype] // 8
    content = raw({"a": tensor(dtype=dtype, shape=[8], data_offsets=[0, size])}, bytes(size))
    safetensors.deserialize(content)
    (entry,) = read(tmp_path, content).tensors
    assert (entry.dtype, entry.size) == (dtype, size)


def test_bfloat16_and_float8_are_read(tmp_path):
    for name, number in (("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn)):
        size = 4 * np.dtype(number).itemsize
        header = read(tmp_path, raw({"a": tensor(dtype=name, data_offsets=[0, size])}, bytes(size)))
        assert header.tensors[0].size == size
        assert NUMBERS[name] == np.dtype(number)


def test_offsets_beyond_32_bits_are_read(tmp_path):
    """A sparse file of 6 GB: two tensors behind each other."""
    half = 3 << 30
    table = {
        "a": tensor(dtype="U8", shape=[half], data_offsets=[0, half]),
        "b": tensor(dtype="U8", shape=[half], data_offsets=[half, 2 * half]),
    }
    path = tmp_path / "big.safetensors"
    path.write_bytes(raw(table, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2 * half)
    assert [entry.size for entry in read_header(path).tensors] == [half, half]


def _text(inside: str) -> bytes:
    return ("{" + inside + "}").encode()


A = json.dumps(tensor())
CORRUPT = {
    "no bytes": b"",
    "7 bytes": b"1234567",
    "length beyond the file": raw({"a": tensor()}, length=1000),
    "length beyond everything": raw({"a": tensor()}, length=2**64 - 1),
    "length too short": raw({"a": tensor()}, length=20),
    "length of 0": raw({"a": tensor()}, length=0),
    "a pointer of git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
    "a zip": b"PK\x03\x04" + bytes(60),
    "data cut": raw({"a": tensor()}, bytes(15)),
    "data too long": raw({"a": tensor()}, bytes(17)),
    "empty header": raw(b"", b""),
    "not JSON": raw(b"{'a': 1}", b""),
    "JSON list": raw([], b""),
    "JSON number": raw(b"5", b""),
    "UTF-16": raw(_text(f'"a": {A}').decode().encode("utf-16")),
    "UTF-8 with a mark": raw(b"\xef\xbb\xbf" + _text(f'"a": {A}')),
    "bytes that are no UTF-8": raw(b'{"\xff": ' + A.encode() + b"}"),
    "half a surrogate pair": raw(_text(f'"\\ud800": {A}')),
    "half a surrogate pair in the metadata": raw(
        _text(f'"__metadata__": {{"a": "\\ud800"}}, "a": {A}')
    ),
    "the same name twice": raw(_text(f'"a": {A}, "a": {A}')),
    "the same field twice": raw(
        _text('"a": {"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}')
    ),
    "NaN as metadata": raw(_text(f'"__metadata__": {{"x": NaN}}, "a": {A}')),
    "NaN as a shape": raw({"a": tensor(shape=[float("nan")])}),
    "metadata of numbers": raw({"__metadata__": {"x": 1}, "a": tensor()}),
    "metadata as a list": raw({"__metadata__": [], "a": tensor()}),
    "deep nesting": raw(b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, b""),
    "deep nesting in a field": raw(_text('"a": ' + "[" * 50_000 + "]" * 50_000), b""),
    "a hole": raw({"a": tensor(data_offsets=[4, 20])}, bytes(20)),
    "a hole between": raw(
        {
            "a": tensor(shape=[1], data_offsets=[0, 4]),
            "b": tensor(shape=[1], data_offsets=[8, 12]),
        },
        bytes(12),
    ),
    "an overlap": raw({"a": tensor(), "b": tensor(data_offsets=[8, 24])}, bytes(24)),
    "the same bytes twice": raw({"a": tensor(), "b": tensor()}),
    "the same bytes twice, and as many unused": raw({"a": tensor(), "b": tensor()}, bytes(32)),
    "negative offsets": raw({"a": tensor(data_offsets=[-16, 0])}),
    "minus zero": raw(_text(f'"a": {A.replace("[0, 16]", "[-0, 16]")}')),
    "offsets the wrong way": raw({"a": tensor(data_offsets=[16, 0])}),
    "offsets as reals": raw({"a": tensor(data_offsets=[0.0, 16.0])}),
    "offsets as booleans": raw({"a": tensor(dtype="U8", shape=[1], data_offsets=[False, True])}),
    "one offset": raw({"a": tensor(data_offsets=[16])}),
    "three offsets": raw({"a": tensor(data_offsets=[0, 16, 16])}),
    "offsets as a text": raw({"a": tensor(data_offsets="ab")}),
    "no offsets": raw({"a": {"dtype": "F32", "shape": [4]}}),
    "no dtype": raw({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "no shape": raw({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "unknown dtype": raw({"a": tensor(dtype="F33")}),
    "dtype as a list": raw({"a": tensor(dtype=["F32"])}),
    "dtype as null": raw({"a": tensor(dtype=None)}),
    "shape and bytes disagree": raw({"a": tensor(shape=[5])}),
    "shape as a text": raw({"a": tensor(shape="", data_offsets=[0, 4])}, bytes(4)),
    "shape as an object": raw({"a": tensor(shape={}, data_offsets=[0, 4])}, bytes(4)),
    "negative shape": raw({"a": tensor(shape=[-2, -2])}),
    "shape beyond 64 bits": raw({"a": tensor(shape=[0, 2**70], data_offsets=[0, 0])}, b""),
    "shape whose product overflows": raw(
        {"a": tensor(shape=[2**32, 2**32, 0], data_offsets=[0, 0])}, b""
    ),
    "half a byte": raw({"a": tensor(dtype="F4", shape=[3], data_offsets=[0, 2])}, bytes(2)),
    "an endless name": raw({"a" * (1 << 20): tensor()}),
    "an endless name in letters of four bytes": raw({"\U0001f600" * (1 << 20): tensor()}),
    "an endless name twice": raw(_text(f'"{"a" * (1 << 20)}": 1, "{"a" * (1 << 20)}": 1'), b""),
    "an endless dtype": raw({"a": tensor(dtype="F" * (1 << 20))}),
    "a dtype of endless lists": raw(_text('"a": ' + A.replace('"F32"', "[" * 800 + "]" * 800))),
    "endless digits": raw(_text(f'"a": {A.replace("[4]", "[" + "9" * 5000 + "]")}')),
    "21 digits": raw(_text(f'"a": {A.replace("[4]", "[" + "9" * 21 + "]")}')),
    "endless negative digits": raw(_text(f'"a": {A.replace("[4]", "[-" + "9" * 5000 + "]")}')),
    "a million dimensions": raw({"a": tensor(shape=[2] * (1 << 17))}),
    "65 dimensions": raw({"a": tensor(shape=[4, *[1] * 64])}),
    "a name that moves the cursor": raw({"\x1b[2J\r\n": tensor(shape=[5])}),
    "a tensor that is a number": raw({"a": 5}, b""),
    "a tensor that is null": raw({"a": None}, b""),
}


# What safetensors takes, silently, or as nobody has such tensors.
OURS = {
    *("the same name twice", "an endless name", "an endless name in letters of four bytes"),
    *("65 dimensions",),
}


@pytest.mark.parametrize("corrupt", CORRUPT)
def test_a_corrupt_file_is_refused_as_safetensors_refuses_it(tmp_path, corrupt):
    if corrupt not in OURS:
        with pytest.raises(Exception):  # noqa: B017 - several of its kinds
            safetensors.deserialize(CORRUPT[corrupt])
    with pytest.raises(InputError, match=r"model\.safetensors") as refused:
        read(tmp_path, CORRUPT[corrupt])
    assert len(str(refused.value)) < 600
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "inside",
    ['"a": [' + "[]," * (5 << 13) + "[]]", '"a": {' + '"b":[],' * (3 << 13) + '"c":0}',
     '"' + "\\ud83d\\ude00" + "a" * (80 << 13) + '": 0', '"\U0001f600' + "a" * (80 << 13) + '": 0'],
    ids=["lists", "objects", "an escaped letter of four bytes", "a letter of four bytes"],
)  # fmt: skip
def test_a_header_that_would_fill_the_memory_is_refused_unparsed(tmp_path, monkeypatch, inside):
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(_text(inside), b""))
    monkeypatch.setattr(small_files, "MAX_PARSED", small_files.MAX_PARSED >> 7)
    monkeypatch.setattr(json, "loads", lambda *args, **kwargs: pytest.fail("it was parsed"))
    with pytest.raises(InputError, match="too many to read"):
        read_header(path)


def test_a_name_that_stands_twice_among_many_is_found_in_time(tmp_path):
    rows = [f'"{n}": {json.dumps(tensor(shape=[0], data_offsets=[0, 0]))}' for n in range(50_000)]
    with pytest.raises(InputError, match="'49999' stands in it twice"):
        read(tmp_path, raw(_text(",".join([*rows, rows[-1]])), b""))


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").mkdir()
    (tmp_path / "c.safetensors").symlink_to("/dev/zero")
    for name, kind in (("a", "named pipe"), ("b", "folder"), ("c", "device")):
        with pytest.raises(InputError, match=f"{name}.safetensors is a {kind}"):
            read_header(tmp_path / f"{name}.safetensors")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a Git LFS pointer.*`git lfs pull`"):
        read(tmp_path, CORRUPT["a pointer of git lfs"])


VALID = save(
    {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones(3, "<f2"), "c": np.ones((), "<f8")},
    {"format": "pt"},
)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    for size in range(len(VALID)):
        with pytest.raises(InputError):
            read(tmp_path, VALID[:size])


def _accepts(content: bytes) -> bool:
    try:
        safetensors.deserialize(content)
    except Exception:
        return False
    return True


mutations = st.lists(
    st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4
)


@settings(SHARED_FOLDER, max_examples=400)
@given(mutations)
def test_a_mutated_file_gives_a_header_or_an_input_error(tmp_path, changes):
    content = bytearray(VALID)
    for place, value in changes:
        content[place] = value
    _check_mutant(tmp_path, bytes(content))


PIECES = sorted(
    {b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9", b"1e9", b"null", b"NaN", b"\\u"}
    | {b"F32", b"F16", b"I64", b"shape", b"data_offsets", b"\xff", b" ", b"a", b'"a"', b"true"}
)


@settings(SHARED_FOLDER, max_examples=400)
@given(
    st.lists(
        st.tuples(st.integers(8, 8 + 200), st.integers(0, 3), st.sampled_from(PIECES)),
        min_size=1,
        max_size=3,
    )
)
def test_a_header_with_exchanged_pieces_gives_a_header_or_an_input_error(tmp_path, changes):
    (length,) = struct.unpack("<Q", VALID[:8])
    text, data = VALID[8 : 8 + length], VALID[8 + length :]
    for place, size, piece in changes:
        place %= len(text)
        text = text[:place] + piece + text[place + size :]
    _check_mutant(tmp_path, raw(text, data))


def _check_mutant(folder, content: bytes) -> None:
    try:
        header = read(folder, content)
    except InputError:
        return
    assert _accepts(content), "safetensors would refuse this file"
    assert header.file_size == len(content)


def test_a_header_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_header(tmp_path / "absent.safetensors")
