"""What alignment reads and holds: layers one at a time, tables a few rows at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import LLAMA, llama, llama_shapes, llama_weights, save, weights_of
from unmergeable.attacks.align import align
from unmergeable.checkpoint import source
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

HERE = Path(__file__).parent
FILE = "model.safetensors"
WIDE = LLAMA | {"vocab_size": 20000, "hidden_size": 64}
TABLES = {"lm_head.weight", "model.embed_tokens.weight"}


@pytest.fixture
def wide(tmp_path):
    """A base, and a locked fine-tune of it, most of whose bytes are tables of 20000 words."""
    weights = llama_weights(0, "BF16", WIDE)
    save(tmp_path / "base", weights, WIDE)
    random = np.random.default_rng(1)
    moved = {
        name: (w.astype(float) + 0.002 * random.normal(size=w.shape)).astype(w.dtype)
        for name, w in weights.items()
    }
    save(tmp_path / "expert", moved, WIDE)
    protect(tmp_path / "expert", tmp_path / "locked", Key(bytes(32)))
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Bytes of tensors that were read, by the file's place."""
    counts, plain = Counter(), os.preadv

    def counted(descriptor, pieces, position):
        count = plain(descriptor, pieces, position)
        counts[str(Path(f"/proc/self/fd/{descriptor}").readlink())] += count
        return count

    monkeypatch.setattr(source.os, "preadv", counted)
    return counts


def size(names):
    return sum(2 * int(np.prod(shape)) for n, shape in llama_shapes(WIDE).items() if n in names)


def same(one, two):
    one, two = weights_of(one), weights_of(two)
    return one.keys() == two.keys() and all((one[n] == two[n]).all() for n in one)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_tables_are_read_to_be_moved_and_hardly_to_be_fitted(wide, read):
    align(wide / "locked", wide / "aligned", wide / "base")
    assert same(wide / "aligned", wide / "expert")
    layers, tables = (size(llama_shapes(WIDE).keys() - TABLES), size(TABLES))
    assert tables > 10 * layers
    for model in ("locked", "base"):  # the base's, for the distance to it
        # Layers once to be fitted, gains of norms twice, and a sketch of the tables.
        assert read[str(wide / model / FILE)] < tables + 2.1 * layers + 0.05 * tables


def test_tables_that_no_sketch_decides_are_read_in_pieces(wide, monkeypatch):
    monkeypatch.setattr("unmergeable.gauge.matching.CLEAR", -1.0)
    monkeypatch.setattr("unmergeable.gauge.views._HELD", 64 * 999)
    align(wide / "locked", wide / "aligned", wide / "base")
    assert same(wide / "aligned", wide / "expert")


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_how_many_layers_are_in_work_changes_nothing(wide, budget, monkeypatch):
    monkeypatch.setattr("unmergeable.attacks.alignment.engine.BUDGET", budget)
    align(wide / "locked", wide / "aligned", wide / "base")
    assert same(wide / "aligned", wide / "expert")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_layers(tmp_path):
    """Layers that take 5 MB in float32, of both models, with 8 MB of them allowed on 16 threads."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 20000}
    models = [llama(tmp_path / "small", "BF16")]
    for layers in (2, 24):
        name = f"{layers} layers"
        models.append(llama(tmp_path / name, "BF16", num_hidden_layers=layers, **shape))
    done = subprocess.run(
        [sys.executable, HERE / "thrifty_align.py", tmp_path / "out", *models],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    few, more = map(int, done.stdout.split())
    table = 2 * 20000 * 256
    assert few < 2 * table + (40 << 20)  # in float32, both models' tables would take 80 MB alone
    assert more < 32 << 20  # sixteen layers at once would take 75 MB
