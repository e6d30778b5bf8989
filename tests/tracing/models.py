"""A tiny base and fine-tunes of it, for tests that mark and trace."""

import numpy as np

from tests.tiny import LLAMA, llama_weights, save, weights_of
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))
CONFIG = LLAMA | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
STRENGTH = {"strength": 0.1}


def tuned(base, seed, share=0.03):
    random = np.random.default_rng(seed)
    return {
        name: (w + share * np.sqrt(np.mean(np.square(w))) * random.normal(size=w.shape)).astype(
            "<f4"
        )
        for name, w in base.items()
    }


def numbers_of(folder):
    """Every tensor of a folder in float64."""
    return {name: values.astype(np.float64) for name, values in weights_of(folder).items()}


def fine_tunes(root, *names):
    """Saves a base, and fine-tunes of it by these names, each with a seed of its own."""
    base = llama_weights(0, "F32", CONFIG)
    save(root / "base", base, CONFIG)
    for seed, name in enumerate(names, 1):
        save(root / name, tuned(base, seed), CONFIG)
    return base


def dead(wild):
    """What sets the last two columns of a matrix to a number."""

    def change(values):
        if values.ndim > 1:
            values[:, -2:] = wild
        return values

    return change
