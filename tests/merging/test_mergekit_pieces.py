"""Large tensors in pieces: the same bits as mergekit's on the whole, and its refusals."""

import pytest
import torch

from tests.merging.test_merge import PARAMETERS, RANDOM
from unmergeable.errors import InputError
from unmergeable.merging import mergekit_bridge, mergekit_pieces

# What each method is asked for besides `test_merge`'s parameters, with three models and a base.
MORE = {
    "breadcrumbs": [{"weight": [1.0, -0.5, 0.3], "density": [0.9, 0.5, 1.0], "gamma": 0.05}],
    "breadcrumbs_ties": [{"weight": 1.3, "density": 0.4, "normalize": True}],
    "dare_linear": [{"weight": [1.0, 0.5, 0.3], "density": [0.5, 1.0, 0.2], "rescale": True}],
    "dare_ties": [{"weight": [1.0, 0.5, 0.3], "density": 0.3, "rescale": False, "lambda": 1.7}],
    "della": [{"weight": [1.0, 0.5, 0.3], "density": 0.5, "normalize": False}],
    "linear": [{"weight": [1.0, 0.5, 0.3], "normalize": False}],
    "ramplus_tl": [{"r": 0.5, "alpha": 3.0, "epsilon": 0.05}, {"r": -0.9, "alpha": 0.9}],
    "task_arithmetic": [{"weight": [1.6, 0.7, -0.3], "normalize": True, "lambda": 0.5}],
    "ties": [
        {"weight": [1.0, 0.5, 0.3], "density": 0.5, "normalize": False},
        {"weight": [1.0, 0.5, 0.3], "density": [0.5, 0.1, 1.0], "normalize": True},
        {"weight": 1.0, "density": 0.7, "rescale": True, "int8_mask": True, "lambda": 0.3},
    ],
}
PIECED = {
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "linear",
    "nearswap",
    "ram",
    "ramplus_tl",
    "task_arithmetic",
    "ties",
}


def models(count, shape=(37, 29)):
    """The base and fine-tunes of it, some numbers of which did not move or moved alike."""
    draw = torch.Generator().manual_seed(count)
    base = torch.randn(shape, generator=draw)
    alike = 0.1 * torch.randn(shape, generator=draw)
    found = [base]
    for _ in range(count):
        moved = 0.1 * torch.randn(shape, generator=draw)
        moved = torch.where(torch.rand(shape, generator=draw) > 0.2, moved, alike)
        found.append(base + moved * (torch.rand(shape, generator=draw) > 0.2))
    return found


def cases():
    for method, parameters in PARAMETERS.items():
        yield method, parameters, 1 if method == "passthrough" else 2
        for more in MORE.get(method, []):
            yield method, more, 3


@pytest.mark.parametrize(("method", "parameters", "count"), cases())
def test_pieces_are_mergekits_merge_of_the_whole_to_the_bit(method, parameters, count, monkeypatch):
    known = mergekit_bridge.methods()[method]
    base, *experts = models(count)
    given = experts if not known.base else [base, *experts]
    if known.inputs == 2:
        given = experts
    index = 0 if known.base else None
    sizes = []
    kit = mergekit_bridge._mergekit()
    whole_merge = kit.merge_tensors

    def spy(tensors, *args, **more):
        sizes.append(tensors[0].numel())
        return whole_merge(tensors, *args, **more)

    monkeypatch.setattr(kit, "merge_tensors", spy)
    arguments = {"base_index": index, "parameters": parameters, "name": "x", "seed": 3}
    whole = mergekit_bridge.merge_tensors(given, method, **arguments)
    assert sizes == [base.numel()]
    for size in ("_LARGE", "_SELECTED"):
        monkeypatch.setattr(mergekit_bridge, size, 100)
    monkeypatch.setattr(mergekit_pieces, "PIECE", 250)
    sizes.clear()
    assert mergekit_bridge.merge_tensors(given, method, **arguments).equal(whole)
    assert (max(sizes) == 250) == (method in PIECED)
    if method in RANDOM:
        assert not mergekit_bridge.merge_tensors(given, method, **{**arguments, "seed": 4}).equal(
            whole
        )


@pytest.mark.parametrize(
    "parameters",
    [
        {"weight": [1.0, 0.5], "density": 0.5},
        {"weight": 1.0, "density": [0.5, 0.5]},
        {"weight": 1.0, "densty": 0.5},
        {"density": 0.5},
    ],
)
def test_pieces_are_refused_as_the_whole_is(parameters, monkeypatch):
    messages = []
    for large in (1 << 24, 100):
        for size in ("_LARGE", "_SELECTED"):
            monkeypatch.setattr(mergekit_bridge, size, large)
        with pytest.raises(InputError) as caught:
            mergekit_bridge.merge_tensors(models(3), "ties", base_index=0, parameters=parameters)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(("method", "selects"), [("ties", True), ("dare_ties", False)])
def test_sorting_gives_way_in_smaller_tensors_than_memory_asks_for(method, selects, monkeypatch):
    monkeypatch.setattr(mergekit_bridge, "_SELECTED", 100)
    ranks = []
    monkeypatch.setattr(
        mergekit_pieces,
        "drop_outside",
        lambda vector, *found, rescale: ranks.append(found) or vector,
    )
    parameters = {"weight": 1.0, "density": 0.5}
    mergekit_bridge.merge_tensors(models(2), method, base_index=0, parameters=parameters)
    count = 37 * 29
    assert ranks == ([(count - count // 2, count)] * 2 if selects else [])
