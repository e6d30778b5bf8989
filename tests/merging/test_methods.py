"""What holds for every merge method of our own, on both ways of storing matrices."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import FAMILIES, answers, ingredients, noisy
from unmergeable import registry
from unmergeable.errors import InputError
from unmergeable.merging.method import Merged, MergeMethod
from unmergeable.merging.methods import GROUP, OWN, methods

# A new method is one row: what makes it quick enough for a test.
ROWS = {
    "adamerging": {"steps": 2},
    "adamerging_task": {"steps": 2},
    "consensus_ta": {},
    "emr": {},
    "fisher": {"draws": 1},
    "iso_c": {},
    "iso_cts": {},
    "knots": {},
    "lot": {},
    "mdm_oc": {},
    "mergetune": {"steps": 2, "samples": 2},
    "neulig": {"steps": 2},
    "regmean": {},
    "smile": {"k": 4, "gate_k": 2},
    "tall_masks": {},
    "tsv": {},
    "wudi": {"steps": 3},
}


def run(name, given, **parameters):
    return OWN[name](given, **{**ROWS[name], **parameters})


def made_for(name, family, **more):
    return ingredients(family, labels="labels" in OWN[name].needs, **more)


def test_every_method_has_a_row():
    assert OWN.keys() == ROWS.keys()
    assert all(name == method.name for name, method in OWN.items())
    assert all(method.paper.startswith("arXiv:") for method in OWN.values())
    assert all(one.help for method in OWN.values() for one in method.settings.values())
    assert all(
        one.keys() <= method.settings.keys() for method in OWN.values() for one in method.sweep
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ROWS)
def test_a_merge_has_the_models_names_and_shapes_and_leaves_them_alone(name, family):
    given = made_for(name, family)
    before = [{n: t.clone() for n, t in s.items()} for s in (given.base, *given.models)]
    merged = run(name, given)
    states = [merged.state, *merged.by_model]
    assert len(merged.by_model) == (2 if OWN[name].deploys == "model per task" else 0)
    assert (merged.rewire is not None) == (OWN[name].deploys == "network")
    for state in states:
        assert set(state) == set(given.base)
        for tensor_name, tensor in state.items():
            assert tensor.dtype == torch.float32
            assert tensor.shape == given.base[tensor_name].shape
            assert tensor.isfinite().all()
            assert not tensor.requires_grad
    for now, then in zip((given.base, *given.models), before, strict=True):
        assert all(torch.equal(now[n], then[n]) for n in then)
        assert not any(t.requires_grad for t in now.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_merge_is_the_same_every_time(name):
    first, second = (run(name, made_for(name, "llama")) for _ in range(2))
    assert all(torch.equal(first.state[n], second.state[n]) for n in first.state)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ROWS)
def test_models_that_equal_the_base_merge_to_it(name, family):
    given = made_for(name, family, experts=lambda base: [dict(base), dict(base)])
    merged = run(name, given)
    for state in (merged.state, *merged.by_model):
        for tensor_name, tensor in state.items():
            gap = (tensor - given.base[tensor_name]).abs().max()
            assert gap < (0.05 if OWN[name].needs == {"labels"} else 1e-5), tensor_name


@pytest.mark.parametrize("size", [1e4, 1e-12])
@pytest.mark.parametrize("name", ROWS)
def test_identical_models_and_task_vectors_of_any_size_merge(name, size):
    """Those of a locked model are as large as its weights; that must not hang or crash."""

    def experts(base):
        expert = noisy(base, 1, size)
        return [expert, expert]

    given = made_for(name, "llama", experts=experts)
    merged = run(name, given)
    assert all(t.isfinite().all() for s in (merged.state, *merged.by_model) for t in s.values())


@pytest.mark.parametrize("name", ROWS)
def test_one_model_merges_alone(name):
    given = made_for(name, "llama", count=1)
    assert all(t.isfinite().all() for t in run(name, given).state.values())


@pytest.mark.parametrize("name", ROWS)
def test_numbers_that_are_not_finite_are_refused(name):
    given = made_for(name, "llama")
    key = "model.layers.1.mlp.up_proj.weight"
    broken = {**given.models[1], key: given.models[1][key] * torch.nan}
    with pytest.raises(InputError, match="not finite"):
        run(name, replace(given, models=[given.models[0], broken]))


@pytest.mark.parametrize("name", ROWS)
def test_models_that_do_not_fit_are_refused(name):
    given = made_for(name, "llama")
    lacking = {n: t for n, t in given.models[1].items() if n != "model.norm.weight"}
    with pytest.raises(InputError, match=r"model 2 cannot be merged: 'model\.norm\.weight'"):
        run(name, replace(given, models=[given.models[0], lacking]))
    with pytest.raises(InputError, match="no model to merge"):
        run(name, replace(given, models=[], corpora=[]))


def test_parameters_that_a_method_has_not_are_refused():
    with pytest.raises(InputError, match="tsv has no parameter 'wait'; it has weight"):
        OWN["tsv"](ingredients(), wait=1)
    with pytest.raises(InputError, match="emr has no parameter 'weight'; it has none"):
        OWN["emr"](ingredients(), weight=1)


@pytest.mark.parametrize("name", [n for n in ROWS if OWN[n].needs])
def test_methods_that_run_models_ask_for_what_they_lack(name):
    given = made_for(name, "llama")
    with pytest.raises(InputError, match="no runner"):
        run(name, replace(given, runner=None))
    with pytest.raises(InputError, match="2 models, 1 corpora"):
        run(name, replace(given, corpora=given.corpora[:1]))
    empty = [replace(corpus, batches=[]) for corpus in given.corpora]
    with pytest.raises(InputError, match=r"corpus 1 \(guess10\) has no inputs"):
        run(name, replace(given, corpora=empty))


@pytest.mark.parametrize("name", [n for n in ROWS if "weight" in OWN[n].parameters])
def test_a_weight_is_one_number_or_one_per_model(name):
    given = made_for(name, "llama")
    one, each = (run(name, given, weight=weight).state for weight in (0.5, [0.5, 0.5]))
    assert all(torch.equal(one[n], each[n]) for n in one)
    uneven = run(name, given, weight=(0.9, 0.1)).state
    assert any(not torch.allclose(one[n], uneven[n]) for n in one)
    for bad in ([1.0], "heavy", [1, 2, 3], None):
        with pytest.raises(InputError, match=r"weight is .*: give one number, or one for each"):
            run(name, given, weight=bad)


@pytest.mark.parametrize("name", [n for n in ROWS if not OWN[n].needs])
def test_buffers_of_whole_numbers_stay(name):
    given = made_for(name, "gpt2")
    ids = torch.arange(3)
    given = replace(
        given, base={**given.base, "ids": ids}, models=[{**m, "ids": ids} for m in given.models]
    )
    merged = run(name, given)
    for state in (merged.state, *merged.by_model):
        assert torch.equal(state["ids"], ids)


@pytest.mark.parametrize("name", ROWS)
def test_a_merge_runs(name):
    given = made_for(name, "gpt2")
    batch = given.corpora[0].batches[0]
    merged = run(name, given)
    assert answers(given, merged.state, batch).isfinite().all()


def test_packages_add_methods_by_entry_point(monkeypatch):
    mine = MergeMethod("mine", "Mine", "none", lambda ingredients: Merged(ingredients.base))

    def points(method):
        class Point:
            name, value = "mine", "package:MINE"

            def load(self):
                if isinstance(method, Exception):
                    raise method
                return method

        return lambda group: [Point()] if group == GROUP else []

    def listed(method):
        methods.cache_clear()
        monkeypatch.setattr(registry, "entry_points", points(method))
        return methods()

    try:
        assert listed(mine) == {**OWN, "mine": mine}
        for bad, message in (
            (42, "is a int, not a MergeMethod"),
            (replace(mine, name="tsv"), "is called 'tsv', a name in use"),
            (ImportError("gone"), "fails: gone"),
        ):
            with pytest.raises(InputError, match=message):
                listed(bad)
    finally:
        methods.cache_clear()
