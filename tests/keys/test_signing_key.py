"""Keys that sign: what each kind signs, its public half checks, and nothing else is taken."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.tiny import write_pem
from unmergeable.errors import KeyFileError
from unmergeable.keys.signing_key import PublicKey, SigningKey

KINDS = {
    "Ed25519": Ed25519PrivateKey.generate,
    **{curve.name: lambda curve=curve: ec.generate_private_key(curve())
       for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_key_signs_its_public_half_checks(tmp_path, kind):
    write_pem(tmp_path, "s", "p", KINDS[kind]())
    signing, public = SigningKey.load(tmp_path / "s"), PublicKey.load(tmp_path / "p")
    signature = signing.sign(b"a message")
    assert public.checks(b"a message", signature)
    assert not public.checks(b"another", signature)
    assert not public.checks(b"a message", signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not public.checks(b"a message", b"")
    assert signing.public.id == public.id and len(public.id) == 64
    write_pem(tmp_path, "s2", "p2", KINDS[kind]())
    other = PublicKey.load(tmp_path / "p2")
    assert not other.checks(b"a message", signature) and other.id != public.id


def test_a_passphrase_is_asked_for_only_where_it_is_needed(tmp_path):
    write_pem(tmp_path, "open", "p")
    SigningKey.load(tmp_path / "open", lambda: pytest.fail("asked"))
    write_pem(tmp_path, "sealed", "p", passphrase="secret")
    assert "secret" not in repr(SigningKey.load(tmp_path / "sealed", lambda: "secret"))
    for given, said in ((None, "is encrypted"), ("", "is encrypted"), ("x", "does not open")):
        with pytest.raises(KeyFileError, match=said):
            SigningKey.load(tmp_path / "sealed", given)


def test_what_is_no_key_of_these_kinds_is_refused(tmp_path):
    wrong = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "k1": ec.generate_private_key(ec.SECP256K1()),
        "x": x25519.X25519PrivateKey.generate(),
    }
    for name, key in wrong.items():
        write_pem(tmp_path, name, f"{name}.pub", key)
        with pytest.raises(KeyFileError, match="of another kind"):
            SigningKey.load(tmp_path / name)
        with pytest.raises(KeyFileError, match="of another kind"):
            PublicKey.load(tmp_path / f"{name}.pub")
    write_pem(tmp_path, "s", "p")
    (tmp_path / "large").write_bytes(bytes(1 << 17))
    for loads, names in ((SigningKey.load, ("p", "large")), (PublicKey.load, ("s", "large"))):
        for name in names:
            with pytest.raises(KeyFileError, match="in PEM"):
                loads(tmp_path / name)
        with pytest.raises(KeyFileError, match="cannot read the key"):
            loads(tmp_path / "nothing")
        with pytest.raises(KeyFileError, match="not a regular file"):
            loads(tmp_path)
