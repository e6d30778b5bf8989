import numpy as np
import pytest

from unmergeable.bench.zoo.dinov2 import find
from unmergeable.errors import DownloadError

WEIGHT = np.arange(6.0).reshape(2, 3)


def test_linear_weights_are_found_by_node_and_transposed():
    constants = {
        "/backbone/encoder/layer.3/attention/attention/key/MatMul": WEIGHT,
        "/backbone/encoder/layer.3/mlp/fc1/MatMul": WEIGHT + 1,
    }
    key = find("encoder.layer.3.attention.k_proj.weight", (3, 2), {}, constants)
    assert np.array_equal(key, WEIGHT.T)
    up = find("encoder.layer.3.mlp.fc1.weight", (3, 2), {}, constants)
    assert np.array_equal(up, WEIGHT.T + 1)


def test_named_tensors_are_copied_and_positions_joined():
    name = "backbone.encoder.layer.0.attention.output.dense.bias"
    found = find("encoder.layer.0.attention.o_proj.bias", (2, 3), {name: WEIGHT}, {})
    assert np.array_equal(found, WEIGHT)
    first, rest = np.zeros((1, 1, 4)), np.ones((1, 9, 4))
    constants = {
        "/backbone/embeddings/Concat_6": first,
        "/backbone/embeddings/Reshape_1": rest,
    }
    positions = find("embeddings.position_embeddings", (1, 10, 4), {}, constants)
    assert np.array_equal(positions, np.concatenate([first, rest], 1))


def test_a_missing_or_misshapen_tensor_is_an_error():
    with pytest.raises(DownloadError, match="has no backbone"):
        find("layernorm.weight", (4,), {}, {})
    with pytest.raises(DownloadError, match="has shape"):
        find("layernorm.weight", (4,), {"backbone.layernorm.weight": np.zeros(5)}, {})
