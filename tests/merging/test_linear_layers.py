"""Which tensors are linear layers, which axis reads, and what they read."""

import re
from dataclasses import replace

import pytest
import torch

from tests.merging.small import FAMILIES, corpus, ingredients
from unmergeable.architectures.declaration import supported
from unmergeable.architectures.placing import Placement
from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import grams, linear_layers, owner
from unmergeable.merging.task_vectors import coefficients


@pytest.mark.parametrize("family", FAMILIES)
def test_the_declaration_tells_linear_layers_and_their_inputs(family):
    """Checked against the modules that transformers builds."""
    given = ingredients(family)
    wanted = {}
    for name, module in given.runner.model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head":
            wanted[f"{name}.weight"] = type(module).__name__ == "Conv1D"
    found = linear_layers(given.layout)
    assert {name: linear.transposed for name, linear in found.items()} == wanted
    assert len(found) == {"llama": 14, "gpt2": 8}[family]


def test_every_declared_matrix_that_reads_is_stored_as_its_family_stores_it():
    """In every data file; GPT-2 alone stores (in, out)."""
    for model_type, declaration in supported().items():
        if declaration.parts:
            continue  # a projector; the rest are the rows of the files that its config names
        rules = [
            *declaration.tensors,
            *(t for c in declaration.classes.values() for t in c.tensors),
        ]
        layout = type("Layout", (), {})()
        layout.spaces = declaration.spaces
        layout.placements = {rule.templates[0]: Placement(rule, {}) for rule in rules}
        found = linear_layers(layout)
        assert found
        for name, linear in found.items():
            parts = ("attn.c_", "mlp.c_", "crossattention.c_", "crossattention.q_attn")
            inside = any(part in name for part in parts)
            assert linear.transposed == (model_type == "gpt2" and inside), name
            assert not re.search(r"embeddings\.|\bembed_|wte|wpe", name), name


@pytest.mark.parametrize("family", FAMILIES)
def test_grams_are_those_of_what_each_layer_reads(family):
    given = ingredients(family)
    linears = linear_layers(given.layout)
    found = grams(given, 1, linears)
    assert found.keys() == linears.keys()
    read = {name: [] for name in linears}
    given.runner.load_state(given.models[1])
    handles = [
        owner(given.runner.model, name).register_forward_hook(
            lambda module, x, out, name=name: read[name].append(x[0].flatten(0, 1))
        )
        for name in linears
    ]
    with torch.no_grad():
        for batch in given.corpora[1].batches:
            given.corpora[1].task.logits(given.runner.model, batch)
    for handle in handles:
        handle.remove()
    for name, gram in found.items():
        x = torch.cat(read[name])
        assert len(x) == 2 * 4 * 6
        torch.testing.assert_close(gram, x.T @ x / len(x))
    shared = {name: id(gram) for name, gram in found.items()}
    assert len(set(shared.values())) == {"llama": 8, "gpt2": 8}[family]


def test_padding_is_left_out_where_the_batch_says_so():
    given = ingredients("llama", count=1)
    batch = corpus(3, batches=1).batches[0]
    mask = torch.ones(4, 6, dtype=torch.int64)
    mask[1, 2:] = 0
    masked = replace(batch, inputs={**batch.inputs, "attention_mask": mask})
    short = replace(batch, inputs={"input_ids": batch.inputs["input_ids"][1:2, :2]}, items=(1,))
    others = replace(batch, inputs={"input_ids": batch.inputs["input_ids"][[0, 2, 3]]})
    first = "model.layers.0.self_attn.q_proj.weight"

    def gram(*batches):
        made = replace(given.corpora[0], batches=batches)
        return grams(replace(given, corpora=[made]), 0, [first])[first]

    torch.testing.assert_close(gram(masked), gram(short, others))


def test_names_with_and_without_the_trunks_prefix_find_their_module():
    model = ingredients("llama").runner.model
    layer = model.model.layers[0].mlp.up_proj
    assert owner(model, "model.layers.0.mlp.up_proj.weight") is layer
    assert owner(model, "layers.0.mlp.up_proj.weight") is layer
    for name in ("layers.7.mlp.up_proj.weight", "layers.0.mlp.up_proj.bias"):
        with pytest.raises(InputError, match=f"LlamaForCausalLM has no tensor '{name}'"):
            owner(model, name)


def test_coefficients_are_one_number_or_one_per_model():
    assert coefficients(1, 3) == [1.0, 1.0, 1.0]
    assert coefficients((0.5, 1), 2) == [0.5, 1.0]
