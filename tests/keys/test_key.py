"""Keys: their files, and draws that must be the same for ever."""

import base64
import hashlib
import hmac
import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from unmergeable.cli import main
from unmergeable.cli.options import load
from unmergeable.errors import InputError, KeyFileError
from unmergeable.gauge.groups import GROUPS, Kind
from unmergeable.keys import key as keys
from unmergeable.keys.key import ExposedKeyWarning, Key, keygen, load_key

KEY = Key(bytes(range(32)))


@pytest.fixture(autouse=True)
def _cheap_seal(monkeypatch):
    monkeypatch.setattr(keys, "_SCRYPT", {"n": 16, "r": 8, "p": 1})


# Fixed vectors: a key must draw the same lock for ever. Never change these.


def test_id_and_derived_bytes_are_fixed():
    assert KEY.id == "38f6608391f8138d"
    assert KEY.derive("x").hex() == (
        "5514ea7fd3ddf62ea191be74b48e9ab3fe06bb9c4dae75aa8aad09892af3dea9"
    )


def test_draws_are_fixed():
    assert KEY.randomness("lock/residual").words(4).tolist() == [
        0x4E45EBE303C679A0,
        0x7F9C40E0E4E4B129,
        0xF6B8029499D5C011,
        0x01C27320DBFC3FC6,
    ]
    assert KEY.randomness("permutation").permutation(8).tolist() == [5, 6, 7, 1, 3, 2, 4, 0]
    assert KEY.randomness("below").below(10, 8).tolist() == [0, 6, 3, 3, 0, 6, 0, 7]
    assert KEY.randomness("signs").signs(8).tolist() == [-1, -1, -1, 1, -1, 1, 1, 1]
    assert KEY.randomness("uniform").uniform(4).tolist() == [
        0.27201521457838657,
        0.22194333199204547,
        0.90957779166921,
        0.7058536321007363,
    ]
    assert KEY.randomness("normal").normal(4) == pytest.approx(
        [0.7182462578949246, 1.9633594510083838, 0.4557361434020149, 1.2096285992969023],
        abs=1e-12,
    )


def test_a_salted_key_is_fixed_and_another_one():
    assert KEY.salted("") == KEY
    assert KEY.salted("0f").id == "abfe5c5ac51e92b9"
    assert len({KEY.salted(salt).id for salt in ("", "0f", "0e", "line:0f")}) == 4


LOSSLESS = {
    "permutation": ([2, 3, 0, 1], [1, 1, 1, 1]),
    "signed permutation": ([1, 2, 3, 0], [1, -1, -1, -1]),
    "scaled permutation": ([1, 3, 0, 2], [-2, -2, -2, 2]),
    "linear": ([3, 2, 0, 1], [-2, 0.5, 0.5, -1]),
    "rotary half": ([0, 3, 2, 1], [-1, -1, -1, 1]),
    "rotary interleaved": ([1, 0, 3, 2], [-2, 2, -1, 1]),
    "positive scaled permutation": ([0, 2, 3, 1], [2, 2, 2, 1]),
    "rotary interleaved turns": ([1, 0, 2, 3], [-1, 1, 1, 1]),
    "rotary half quarter turns": ([0, 3, 2, 1], [-1, 1, -1, -1]),
    "rotary half signs": ([0, 1, 2, 3], [1, 1, 1, 1]),
    "rotary axial signs": ([0, 1, 2, 3], [-1, -1, 1, 1]),
}
GENERAL = {
    "permutation": [1, 1, 1, 1],
    "signed permutation": [1, -1, -1, -1],
    "scaled permutation": [
        -0.9472973881726707,
        -0.5220281060401623,
        -0.5491026433470845,
        1.1916527842579687,
    ],
    "linear": [
        [0.24476446689235504, 0.3495449774134827, 1.0349929109614566, 0.2977277760395498],
        [-0.5214435273115455, 0.013568474246637102, 0.6385868356639549, 0.2958148236290964],
        [0.1254427105239162, -0.4012899336548365, 1.2038953037698175, -0.10037174228497417],
        [0.13350857084423307, -0.2107887143014795, -0.5345155419323294, 0.7038383191495753],
    ],
    "rotary half": [
        [-0.35257603012742117, 0, 1.1294034253468122, 0],
        [0, -1.4130157868802664, 0, 0.03947779354790596],
        [-1.1294034253468122, 0, -0.35257603012742117, 0],
        [0, -0.03947779354790596, 0, -1.4130157868802664],
    ],
    "rotary interleaved": [
        [1.231638145000309, -0.9779870546608235, 0, 0],
        [0.9779870546608235, 1.231638145000309, 0, 0],
        [0, 0, -0.9525139459417503, 0.0633160708694539],
        [0, 0, -0.0633160708694539, -0.9525139459417503],
    ],
    "positive scaled permutation": [
        1.2409296010761244,
        1.4344278995193387,
        1.8190205944563047,
        1.9131370828825733,
    ],
    "rotary interleaved turns": [
        [0.26090943983175374, 0.9653632809500683, 0, 0],
        [-0.9653632809500683, 0.26090943983175374, 0, 0],
        [0, 0, -0.9935347387971027, 0.11352851097135619],
        [0, 0, -0.11352851097135619, -0.9935347387971027],
    ],
    "rotary half quarter turns": [-1, 1, -1, -1],
    "rotary half signs": [1, 1, 1, 1],
    "rotary axial signs": [-1, -1, 1, 1],
}


def test_every_group_has_fixed_vectors():
    assert LOSSLESS.keys() == GENERAL.keys() == GROUPS.keys()


@pytest.mark.parametrize("group", LOSSLESS)
@pytest.mark.parametrize("scales", [True, False])
def test_the_lossless_element_of_a_key_is_fixed(group, scales):
    source, scale = LOSSLESS[group]
    element = GROUPS[group].draw(4, KEY.randomness(f"lock/{group}"), Kind(scales=scales))
    assert element.source.tolist() == source
    assert element.scale.tolist() == list(scale if scales else np.sign(scale))


@pytest.mark.parametrize("group", GENERAL)
def test_the_general_element_of_a_key_is_fixed(group):
    element = GROUPS[group].draw(4, KEY.randomness(f"lock/{group}"), Kind(general=True))
    wanted = np.array(GENERAL[group], float)
    if wanted.ndim == 1:
        assert element.source.tolist() == LOSSLESS[group][0]
        assert element.scale == pytest.approx(wanted, abs=1e-12)
    else:
        assert element(np.eye(4)) == pytest.approx(wanted, abs=1e-12)


def hkdf_sha256(secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 by hand, with no salt."""
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    out, block, count = b"", b"", 1
    while len(out) < size:
        block = hmac.digest(extracted, block + info + bytes([count]), hashlib.sha256)
        out, count = out + block, count + 1
    return out[:size]


def chacha20_block(key: bytes, counter: int) -> bytes:
    """RFC 8439 by hand, with a nonce of zeros."""
    initial = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    initial += [0, 0, 0]
    state = list(initial)

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for start in range(4):
            quarter(start, start + 4, start + 8, start + 12)
        for start in range(4):
            quarter(start, 4 + (start + 1) % 4, 8 + (start + 2) % 4, 12 + (start + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, initial, strict=True)))


@pytest.mark.parametrize("size", [8, 32, 100])
def test_derived_bytes_are_hkdf_sha256(size):
    for name in ("x", "key id", "lock/vo/3/1"):
        wanted = hkdf_sha256(KEY.secret, b"unmergeable v1/" + name.encode(), size)
        assert KEY.derive(name, size) == wanted


def test_streams_are_chacha20_from_counter_zero():
    key = hkdf_sha256(KEY.secret, b"unmergeable v1/lock/residual", 32)
    stream = b"".join(chacha20_block(key, counter) for counter in range(3))
    words = KEY.randomness("lock/residual").words(24)
    assert words.tolist() == list(struct.unpack("<24Q", stream))


def test_a_stream_does_not_depend_on_how_it_is_cut():
    random = KEY.randomness("x")
    parts = np.concatenate([random.words(n) for n in (1, 7, 5)])
    assert (parts == KEY.randomness("x").words(13)).all()


def test_streams_of_other_names_and_other_keys_are_independent():
    other = Key(bytes(31) + b"\1")
    streams = [
        key.randomness(name).uniform(2000)
        for key in (KEY, other)
        for name in ("lock/vo/1/11", "lock/vo/11/1", "lock/vo")
    ]
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 0.1


# Key files


@pytest.fixture(params=["named at the end", "written in place"])
def _either_way(request, monkeypatch):
    """Both ways of writing a key file; the second is for file systems without nameless files."""
    if request.param == "written in place":
        monkeypatch.setattr(keys, "_nameless", lambda folder: None)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
@pytest.mark.usefixtures("_either_way")
def test_a_key_file_is_its_owners_alone_whatever_the_umask(tmp_path, umask):
    path = tmp_path / "owner.key"
    before = os.umask(umask)
    try:
        keygen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_comes_back_from_its_file(tmp_path):
    key = keygen(tmp_path / "owner.key")
    assert load_key(tmp_path / "owner.key") == key
    assert len(key.secret) == 32
    assert keygen(tmp_path / "other.key") != key


def test_a_key_comes_back_from_a_sealed_file_with_its_passphrase_alone(tmp_path):
    path = tmp_path / "owner.key"
    key = keygen(path, "correct horse ☂")
    assert load_key(path, "correct horse ☂") == load_key(path, lambda: "correct horse ☂") == key
    text = path.read_text()
    for spelling in (base64.b64encode(key.secret).decode(), key.secret.hex()):
        assert spelling not in text
    with pytest.raises(KeyFileError, match="passphrase does not open"):
        load_key(path, "correct horse")
    for nothing in (None, lambda: None):
        with pytest.raises(KeyFileError, match="is sealed"):
            load_key(path, nothing)


def test_the_default_seal_is_costly(monkeypatch):
    """OWASP's password storage cheat sheet: n = 2^17, r = 8, p = 1, or more."""
    monkeypatch.undo()
    assert keys._SCRYPT["n"] >= 1 << 17
    assert keys._SCRYPT["r"] >= 8
    assert keys._SCRYPT["p"] >= 1


def test_a_file_of_the_default_cost_or_of_an_older_one_opens(tmp_path, monkeypatch):
    monkeypatch.undo()
    for cost in (keys._SCRYPT, {"n": 1 << 15, "r": 8, "p": 1}):
        path = tmp_path / f"{cost['n']}.key"
        monkeypatch.setattr(keys, "_SCRYPT", cost)
        key = keygen(path, "open sesame")
        assert json.loads(path.read_text())["sealed"]["scrypt"] == cost
        monkeypatch.undo()
        assert load_key(path, "open sesame") == key


def test_an_empty_passphrase_is_refused(tmp_path):
    with pytest.raises(InputError, match="passphrase is empty"):
        keygen(tmp_path / "owner.key", "")
    assert not list(tmp_path.iterdir())


def test_bytes_of_the_environment_are_a_passphrase_and_other_surrogates_are_not(tmp_path):
    given = b"caf\xe9".decode("utf-8", "surrogateescape")
    key = keygen(tmp_path / "owner.key", given)
    assert load_key(tmp_path / "owner.key", given) == key
    with pytest.raises(InputError, match="passphrase is not text"):
        keygen(tmp_path / "other.key", "\ud800")
    with pytest.raises(KeyFileError, match="passphrase does not open"):
        load_key(tmp_path / "owner.key", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["owner.key"]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o604, 0o640, 0o644, 0o602, 0o666])
def test_a_key_that_others_may_read_is_warned_of(tmp_path, mode, recwarn):
    path = tmp_path / "owner.key"
    key = keygen(path)
    path.chmod(mode)
    assert load_key(path) == key
    found = [str(one.message) for one in recwarn if one.category is ExposedKeyWarning]
    if mode & 0o077:
        assert len(found) == 1
        assert str(path) in found[0] and f"{mode:04o}" in found[0] and "chmod 600" in found[0]
        assert recwarn.list[0].filename == __file__
    else:
        assert not found


def test_a_passphrase_is_not_asked_for_where_none_is_needed(tmp_path):
    keygen(tmp_path / "owner.key")
    load_key(tmp_path / "owner.key", lambda: pytest.fail("asked"))


@pytest.mark.usefixtures("_either_way")
def test_a_key_never_overwrites(tmp_path):
    path = tmp_path / "owner.key"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        keygen(path)
    assert path.read_text() == "precious"
    dangling = tmp_path / "dangling.key"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="exists"):
        keygen(dangling)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling.key", "owner.key"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/owner.key", "No such file or directory"),
        ("file/owner.key", "Not a directory"),
        ("pipe/owner.key", "Not a directory"),
        ("o" * 300, "File name too long"),
        ("owner\0key", "no file has such a name"),
    ],
)
@pytest.mark.usefixtures("_either_way")
def test_a_key_needs_a_folder_and_a_name(tmp_path, name, message):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=message):
        keygen(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fchmod", "fsync", "fsync of the folder", "link"])
@pytest.mark.usefixtures("_either_way")
def test_a_failure_leaves_no_half_written_key(tmp_path, monkeypatch, call, error):
    name, _, folder = call.partition(" of the ")
    real, calls = getattr(os, name), []

    def fails(*arguments, **options):
        calls.append(arguments)
        if folder and len(calls) == 1:
            return real(*arguments, **options)
        raise error

    monkeypatch.setattr(os, name, fails)
    if call == "link" and keys._nameless(tmp_path) is None:
        pytest.skip("written in place, it is not linked")
    with pytest.raises((InputError, KeyboardInterrupt), match=r"No space left|^$"):
        keygen(tmp_path / "owner.key")
    assert calls
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["fchmod", "fsync", "link"])
def test_a_kill_leaves_no_half_written_key(tmp_path, call):
    kill = f"os.{call} = lambda *a, **k: os.kill(os.getpid(), {signal.SIGKILL:d})"
    code = f"import os; from unmergeable.keys.key import keygen; {kill}; keygen('owner.key')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_neither_id_nor_repr_reveals_the_secret(tmp_path):
    key = keygen(tmp_path / "owner.key")
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
    assert len(key.id) == 16
    assert key.id not in key.secret.hex()
    assert Key(bytes([key.secret[0] ^ 1]) + key.secret[1:]).id != key.id


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_secret_has_32_bytes(size):
    with pytest.raises(KeyFileError, match="32 bytes"):
        Key(bytes(size))


def _with(**changes):
    def change(document):
        document.update(changes)
        return document

    return change


def _without(name):
    def change(document):
        del document[name]
        return document

    return change


def _sealed(**changes):
    def change(document):
        document["sealed"].update(changes)
        return document

    return change


DAMAGED = {
    "not an object": lambda document: [document],
    "other format": _with(format="something"),
    "no format": _without("format"),
    "newer version": _with(version=2),
    "no version": _without("version"),
    "no secret": _without("secret"),
    "no id": _without("id"),
    "other id": _with(id="0" * 16),
    "other secret": _with(secret=base64.b64encode(bytes(32)).decode()),
    "short secret": _with(secret=base64.b64encode(bytes(31)).decode()),
    "not base64": _with(secret="*" * 44),
    "not ASCII": _with(secret="é" * 44),
    "secret of another type": _with(secret=5),
    "sealed of another type": _with(sealed=5),
    "version true": _with(version=True),
    "version of a million digits": _with(version="9" * 60_000),
    "id half a character": _with(id="\ud800"),
    "sealed and empty": _with(sealed={}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_key_file_is_refused(tmp_path, damage):
    path = tmp_path / "owner.key"
    keygen(path)
    path.write_text(json.dumps(DAMAGED[damage](json.loads(path.read_text()))))
    with pytest.raises(KeyFileError) as refused:
        load_key(path, "passphrase")
    if "short" not in damage:
        assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1000


SEALED_DAMAGED = {
    "no salt": lambda document: document["sealed"].pop("salt") and document,
    "no cost": lambda document: document["sealed"].pop("scrypt") and document,
    "cost not a table": _sealed(scrypt=5),
    "cost without r": _sealed(scrypt={"n": 16, "p": 1}),
    "cost with more": _sealed(scrypt={"n": 16, "r": 8, "p": 1, "q": 1}),
    "cost a text": _sealed(scrypt={"n": "16", "r": 8, "p": 1}),
    "cost negative": _sealed(scrypt={"n": -16, "r": 8, "p": 1}),
    "cost no power of two": _sealed(scrypt={"n": 17, "r": 8, "p": 1}),
    "cost true": _sealed(scrypt={"n": 16, "r": 8, "p": True}),
    "cost with a fraction": _sealed(scrypt={"n": 16.0, "r": 8, "p": 1}),
    "cost a list": _sealed(scrypt=[16, 8, 1]),
    "cost of nothing": _sealed(scrypt={"n": 1, "r": 8, "p": 1}),
    "cost zero": _sealed(scrypt={"n": 16, "r": 0, "p": 1}),
    "cost that would eat all memory": _sealed(scrypt={"n": 1 << 20, "r": 8, "p": 1}),
    "cost of large blocks": _sealed(scrypt={"n": 2, "r": 1 << 21, "p": 1}),
    "cost that would take for ever": _sealed(scrypt={"n": 16, "r": 8, "p": 1 << 20}),
    "cost above four times the default": _sealed(scrypt={"n": 1 << 17, "r": 8, "p": 5}),
    "cost beyond all numbers": _sealed(scrypt={"n": 1 << 1300, "r": 8, "p": 1}),
    "id half a character": _with(id="\ud800"),
    "nonce not base64": _sealed(nonce="*"),
    "nonce too short": _sealed(nonce=""),
    "box too short": _sealed(box="AAAA"),
    "box of another type": _sealed(box=[]),
    "other id": _with(id="0" * 16),
    "no id": _without("id"),
}


@pytest.mark.parametrize("damage", SEALED_DAMAGED)
def test_a_damaged_sealed_key_file_is_refused(tmp_path, damage, monkeypatch):
    path = tmp_path / "owner.key"
    keygen(path, "passphrase")
    if damage.startswith("cost"):
        monkeypatch.setattr(keys, "Scrypt", lambda **cost: pytest.fail(f"tried {cost}"))
    path.write_text(json.dumps(SEALED_DAMAGED[damage](json.loads(path.read_text()))))
    with pytest.raises(KeyFileError, match=str(path)):
        load_key(path, "passphrase")


def test_a_box_that_holds_another_secret_is_refused(tmp_path):
    path = tmp_path / "owner.key"
    keygen(path, "passphrase")
    document = json.loads(path.read_text())
    salt, nonce = (base64.b64decode(document["sealed"][k]) for k in ("salt", "nonce"))
    seal = ChaCha20Poly1305(keys._stretch("passphrase", salt, document["sealed"]["scrypt"]))
    box = seal.encrypt(nonce, bytes(32), document["id"].encode())
    document["sealed"]["box"] = base64.b64encode(box).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(KeyFileError, match="does not match its id"):
        load_key(path, "passphrase")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"\x80\x04K\x01."], ids=repr
)
def test_what_is_not_json_is_not_a_key(tmp_path, content):
    path = tmp_path / "owner.key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="not a key file"):
        load_key(path)


@pytest.mark.parametrize("path", ["absent", ".", "pipe", "/dev/zero", "o" * 300, "o" * 100_000])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="cannot read the key") as refused:
        load_key(tmp_path / Path(path))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("size", [1 << 17, 1 << 40])
def test_a_large_file_is_not_read(tmp_path, size):
    with (tmp_path / "owner.key").open("wb") as file:
        file.truncate(size)
    with pytest.raises(KeyFileError, match="not a key file"):
        load_key(tmp_path / "owner.key")


def test_a_seal_that_memory_does_not_suffice_for_is_said(tmp_path, monkeypatch):
    path = tmp_path / "owner.key"
    keygen(path, "passphrase")

    def scarce(**cost):
        raise MemoryError

    monkeypatch.setattr(keys, "Scrypt", scarce)
    with pytest.raises(KeyFileError, match="more memory than there is"):
        load_key(path, "passphrase")
    with pytest.raises(InputError, match="more memory than there is"):
        keygen(tmp_path / "other.key", "passphrase")


ODD = [None, True, -1, 0, 1, 2**31, 10**400, 1e308, float("nan"), "", "AAAA", "\ud800", "x" * 9999]
ODD += [[], {}, [[[]]] * 9, {"n": 16}, "\n" * 50]


def _mutant(content: bytes, draw: random.Random) -> bytes:
    """A key file with one or two values, keys or bytes changed."""
    for _ in range(draw.randint(1, 2)):
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return content
        tables = [document, *(v for v in document.values() if isinstance(v, dict))]
        tables += [v for t in tables[1:] for v in t.values() if isinstance(v, dict)]
        table = draw.choice([table for table in tables if table] or [{"x": 1}])
        name, kind = draw.choice(list(table)), draw.randrange(5)
        if kind == 0:
            table[name] = draw.choice(ODD)
        elif kind == 1:
            table[draw.choice(["n", "secret", "sealed", "id", "x" * 2000])] = table.pop(name)
        elif kind == 2:
            del table[name]
        content = json.dumps(document).encode()
        if kind == 3:
            at = draw.randrange(len(content))
            content = content[:at] + draw.randbytes(draw.randint(0, 3)) + content[at + 1 :]
        elif kind == 4:
            depth = draw.choice([10, 20_000])
            content = content.replace(b": ", b": " + b"[" * depth + b"]" * depth + b', "x": ', 1)
    return content


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_any_key_file_is_read_or_refused_in_one_line(tmp_path, passphrase):
    path, draw, outcomes = tmp_path / "owner.key", random.Random(0), set()
    key = keygen(path, passphrase)
    whole = path.read_bytes()
    for _ in range(400):
        path.write_bytes(_mutant(whole, draw))
        try:
            outcomes.add(load_key(path, passphrase))
        except KeyFileError as error:
            sentence = str(error)
            assert len(sentence) < 1000 and sentence.isprintable()
            assert base64.b64encode(key.secret).decode() not in sentence
            outcomes.add(sentence)
    assert key in outcomes  # what does not matter may change
    assert not any(isinstance(one, Key) and one != key for one in outcomes)
    assert len(outcomes) >= 5


# The command line


@pytest.mark.parametrize("given", [None, ""])
def test_a_passphrase_that_nobody_can_give_is_said(tmp_path, monkeypatch, capsys, given):
    monkeypatch.delenv("UNMERGEABLE_PASSPHRASE", raising=False)
    if given is not None:
        monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", given)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    path = tmp_path / "owner.key"
    assert main(["keygen", str(path), "--passphrase"]) == 2
    assert "no passphrase: set $UNMERGEABLE_PASSPHRASE" in capsys.readouterr().err
    assert not path.exists()
    keygen(path, "open sesame")
    with pytest.raises(KeyFileError, match="is sealed"):
        load(path)


def test_a_key_that_others_may_read_is_said_in_one_line(tmp_path, capsys):
    path = tmp_path / "owner.key"
    key = keygen(path)
    assert load(path) == key
    assert capsys.readouterr().err == ""
    path.chmod(0o644)
    for _ in range(2):
        assert load(path) == key
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and str(path) in said


# Secrets that are published


def test_a_secret_opens_with_its_key_and_name_alone():
    key, other = Key(bytes(range(32))), Key(bytes(32))
    box = key.encrypt("link 0", b"a permutation")
    assert key.encrypt("link 0", b"a permutation") == box != key.encrypt("link 1", b"a permutation")
    assert b"permutation" not in base64.b64decode(box)
    assert key.decrypt("link 0", box) == b"a permutation"
    for who, name, what in (
        (other, "link 0", box),
        (key, "link 1", box),
        (key, "link 0", box[:-4] + "AAA="),
        (key, "link 0", "?"),
    ):
        with pytest.raises(KeyFileError, match="does not open"):
            who.decrypt(name, what)


def test_the_encryption_of_secrets_is_fixed():
    """It is part of the manifest's format."""
    box = Key(bytes(range(32))).encrypt("link 0", b"abc")
    assert box == "qOAcMPEIf2ZpcvnI5twGxfwGdQ=="
