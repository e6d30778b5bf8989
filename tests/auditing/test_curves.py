"""Displacement by layer, of models with one stack of layers and with several."""

from types import SimpleNamespace

import pytest

from tests.architectures.families import FAMILIES
from tests.attacks.robbed import thief_of
from unmergeable.auditing.curves import Curves, displacement
from unmergeable.evaluation.scoring import Score

ENCODERS = [f"layer {number}" for number in range(3)]


@pytest.mark.parametrize(
    ("name", "labels", "touched", "moved"),
    [
        ("llama", ["embeddings", "0", "1"], "layers.1.", "1"),
        ("t5", ["embeddings", *ENCODERS, "decoder layer 0", "decoder layer 1"],
         "decoder.block.1.", "decoder layer 1"),
    ],
)  # fmt: skip
def test_every_layer_of_every_stack_has_its_place(name, labels, touched, moved):
    thief, _ = thief_of(next(family for family in FAMILIES if family.name == name))
    candidates = SimpleNamespace(base=SimpleNamespace(state=thief.base))
    setting = SimpleNamespace(candidates=candidates, layout=thief.layout)
    state = {n: 2 * tensor if touched in n else tensor for n, tensor in thief.base.items()}
    found, values = displacement(setting, state, {})
    assert found == labels
    assert dict(zip(found, values, strict=True)) == {
        label: pytest.approx(float(label == moved)) for label in labels
    }
    # What is not known of a tensor counts as moved.
    squares = {n: float(t.double().square().sum()) for n, t in thief.base.items() if touched in n}
    assert displacement(setting, thief.base, squares)[1] == pytest.approx(values)


def test_the_ends_of_a_line_are_the_models_themselves():
    """By what their own scores are kept under, so that these are looked up."""
    thief, _ = thief_of(next(family for family in FAMILIES if family.name == "llama"))
    ends = [SimpleNamespace(identity=name, state=thief.base) for name in ("peer", "model")]
    asked = {}

    class Judge:
        def scores(self, about, make, split):
            asked[str(about)] = make().state
            return [Score((1.0,), (0.5,))]

        def forget(self):
            pass

    inputs = SimpleNamespace(
        candidates=SimpleNamespace(base=SimpleNamespace(state=thief.base), peers=ends[:1]),
        layout=thief.layout,
        tasks=SimpleNamespace(tasks=[SimpleNamespace(name="task")]),
        evaluator=Judge(),
    )
    curves = Curves(inputs, 3)
    curves.add("name", "title", SimpleNamespace(model=ends[1], unknown={}), lambda: None)
    between = str({"line": 0.5, "from": "peer", "to": "model"})
    assert list(asked) == [str({"weights": "peer"}), between, str({"weights": "model"})]
    assert curves.line[0]["accuracies"] == {"task": [1.0, 1.0, 1.0]}
