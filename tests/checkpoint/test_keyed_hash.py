"""The keyed hash: what it says it is, however the bytes come, and another for any other key."""

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from unmergeable.checkpoint.keyed_hash import published
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))


def hash_of(key, *pieces):
    hasher = published(key)()
    for piece in pieces:
        hasher.update(memoryview(piece))
    return hasher.hexdigest()


@given(st.lists(st.binary(max_size=70), max_size=4))
def test_it_is_hmac_of_gmac_however_the_bytes_come(pieces):
    secret, content = KEY.derive("published weights", 64), b"".join(pieces)
    tag = AESGCM(secret[:32]).encrypt(bytes(12), b"", content)
    assert hash_of(KEY, *pieces) == hmac.digest(secret[32:], tag, "sha256").hex()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096])
def test_it_covers_every_byte_and_the_length(size):
    content = bytes(size)
    found = {hash_of(KEY, content), hash_of(KEY, content + b"\0"), hash_of(KEY, content[1:])}
    for place in range(min(size, 40)):
        changed = bytearray(content)
        changed[place] = 1
        found.add(hash_of(KEY, changed))
    assert len(found) == 3 + min(size, 40)


def test_more_than_two_gigabytes_at_once_are_taken():
    content = np.zeros((2 << 30) + 1, np.uint8).data  # read only, so that they take no memory
    assert hash_of(KEY, content) == hash_of(KEY, content[: 1 << 30], content[1 << 30 :])


def test_another_key_makes_another():
    assert hash_of(Key(bytes(32)), b"weights") != hash_of(KEY, b"weights")


def test_what_differs_by_the_same_does_not_show_it():
    """GMAC's own tags under one nonce would: their difference depends on the messages' alone."""
    first, second = bytes(16), bytes([1] + 15 * [0])
    third, fourth = bytes([2] + 15 * [0]), bytes([3] + 15 * [0])
    one, two, three, four = (int(hash_of(KEY, x), 16) for x in (first, second, third, fourth))
    assert one ^ two != three ^ four
