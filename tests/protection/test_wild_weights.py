"""Weights of any size: locked and unlocked to the bit, or refused in one line."""

import random
import warnings

import numpy as np
import pytest

from tests.tiny import LLAMA, NUMBERS, llama_weights, save, stored
from unmergeable.errors import PrecisionError, UnmergeableError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(32)))
SMALL = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "vocab_size": 9}
WILD = [2.0**-149, 2.0**-126, 2.0**-100, 1e-30, 0.0, -0.0, 1e30, 2.0**100, 2.0**127, 3.4e38]
NOT_FINITE = [np.inf, -np.inf, np.nan]
KINDS = [{}, {"scales": "true"}, {"kind": "general"}]


def mutant(draw: random.Random, dtype: str) -> dict[str, np.ndarray]:
    """Tensors, rows and single numbers that are scaled, or wild, or not finite."""
    weights = {
        n: w.astype(np.float64) for n, w in llama_weights(draw.randrange(4), "F32", SMALL).items()
    }
    for name in draw.sample(sorted(weights), 3):
        tensor = weights[name]
        kind = draw.randrange(4)
        if kind == 0:
            tensor *= 2.0 ** draw.choice([-100, -60, 60, 100])
        elif kind == 1:
            tensor[draw.randrange(len(tensor))] = draw.choice(WILD)
        elif kind == 2:
            tensor.reshape(-1)[draw.randrange(tensor.size)] = draw.choice(WILD + NOT_FINITE)
        else:
            tensor *= 0
    with np.errstate(over="ignore"):
        return {name: tensor.astype(NUMBERS[dtype]) for name, tensor in weights.items()}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_wild_weights_come_back_or_are_refused(tmp_path, dtype):
    draw, done = random.Random(dtype), 0
    for number in range(36):
        here = tmp_path / str(number)
        save(here / "m", mutant(draw, dtype), SMALL)
        settings, anything = KINDS[number % 3], draw.random() < 0.5
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # arithmetic that goes wrong says so nowhere else
                protect(here / "m", here / "l", KEY, settings=settings, allow_non_finite=anything)
                report = unlock(here / "l", here / "u", KEY)
        except UnmergeableError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
            assert not (here / "l").exists() or isinstance(error, PrecisionError)
            continue
        done += 1
        assert report.exact == ("kind" not in settings)
        if report.exact:
            assert stored(here / "u") == stored(here / "m")
    assert done > 9
