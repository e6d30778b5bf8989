"""The verdict's logic by itself: facts that say "holds", and each condition taken away in turn."""

import math
from dataclasses import replace

import pytest

from tests.auditing.report.synthetic import DOCUMENTS
from unmergeable.attacks.attack import COORDINATE_FREE
from unmergeable.auditing.report.audit_report import AuditReport
from unmergeable.auditing.verdict import (
    BROKEN,
    CONTROLS,
    NEAR,
    ROUNDED,
    WHOLE,
    WIDE,
    Facts,
    Layer,
    Reached,
    decide,
)
from unmergeable.cli import main
from unmergeable.evaluation.value import Estimate

PRICE = {"seconds": 5.0, "labelled": 0, "unlabelled": 0, "flops": None}
STAGES = ("none", "align", "data-free", "text", "labels")


def reached(stage="align", theft=0.1, half=0.05, seconds=5.0, method="ties", **price):
    found = Estimate(theft, max(0.0, theft - half), theft + half)
    value = Estimate(theft * 0.9, found.low * 0.9, found.high * 0.9)
    cost = {**PRICE, "seconds": seconds, **price}
    return Reached(stage, f"the {stage} attack", stage, method, value, found, cost)


HOLDS = Facts(
    reached=tuple(reached(stage) for stage in STAGES),
    ceilings=((100.0, 0.9),),
    controls=dict.fromkeys(CONTROLS, True),
    expert=0.03,
    aligned=0.031,
    layers=tuple(Layer(str(n), 0.03, 0.031) for n in range(12)),
    retained=1.0,
)
FAR = {"aligned": 0.2, "free": frozenset(COORDINATE_FREE)}


def without(name):
    return {"controls": {key: True for key in CONTROLS if key != name}}


def layer(at, **changes):
    """All layers, one of them changed."""
    return {
        "layers": tuple(
            replace(one, **changes) if n == at else one for n, one in enumerate(HOLDS.layers)
        )
    }


def but(*changed):
    """What was reached, with some of it changed."""
    stages = {each.stage for each in changed}
    return {"reached": (*changed, *(e for e in HOLDS.reached if e.stage not in stages))}


# Each row takes one condition of "holds" away: what changes, and what the verdict must name.
UNDECIDED = {
    "nothing was measured": ({"reached": ()}, "could be measured"),
    **{f"no control {name}": (without(name), name) for name in CONTROLS},
    **{
        f"{name} failed": ({"controls": {**HOLDS.controls, name: False}}, f"{name}' failed")
        for name in CONTROLS
    },
    "another control failed": (
        {"controls": {**HOLDS.controls, "key unlocks": False}},
        "'key unlocks' failed",
    ),
    "an attack failed": ({"failed": ("pull-back, with ties,",)}, "pull-back, with ties, failed"),
    "a part was left out": (
        {"left_out": (("pull-back", "give texts: near"),)},
        "give texts: near",
    ),
    "it was a quick audit": ({"left_out": (("a part", "run without --quick"),)}, "--quick"),
    "the base is wrong": (
        {"distant": (("the original is 90% of the base's norm away", "give the base that"),)},
        "give the base that",
    ),
    "few items": (
        {"doubts": (("spam has 9 different test items", "score on 100"),)},
        "score on 100",
    ),
    "the release lost its skill": ({"retained": WHOLE - 1e-6}, "release alone keeps 90%"),
    "what the release kept is unknown": ({"retained": None}, "keeps an unknown share"),
    "the interval reaches the bar": (but(reached("text", 0.4, 0.1)), "theft may be as much as 50%"),
    "it is not the worst figure's interval": (
        but(reached("text", 0.4, 0.01), reached("labels", 0.37, 0.14)),
        "theft may be as much as 51%",
    ),
    "the interval is wide": (but(reached("text", 0.2, 0.2)), "an interval of theft is 0.40 wide"),
    "aligned is far": ({"aligned": 0.2}, "20.0% of the base's norm"),
    "aligned is a little too far": ({"aligned": HOLDS.expert * NEAR + 1e-6}, "open expert is 3.0%"),
    "aligned is suspicious": ({"suspicious": True}, "did not run with text"),
    "aligned is not finite": ({"aligned": math.nan}, "did not run with text"),
    "the fit crashed": ({"aligned": None}, "alignment failed on this release"),
    "one layer was rewritten": (
        layer(7, aligned=1.4),
        "of 12 layers, fine-tuning leaves no such distance in layer 7 (up to 140.0%, where the "
        "open expert's is 3.0%)",
    ),
    "one layer is a little too far": (layer(0, aligned=0.03 * NEAR + 1e-6), "layer 0"),
    "one layer was left alone by fine-tuning": (
        layer(0, expert=0.0, aligned=ROUNDED * NEAR + 1e-6),
        "layer 0",
    ),
    "one layer is not finite": (layer(11, aligned=None), "layer 11 (up to infinity, where"),
    "two layers, one not finite": (
        {"layers": (*HOLDS.layers, Layer("head", 0.1, 0.4), Layer("tail", 0.1, None))},
        "of 14 layers, fine-tuning leaves no such distance in head, tail (up to infinity",
    ),
    "one layer of the expert is not finite": (layer(11, expert=None), "layer 11"),
    "no layer is known": ({"layers": ()}, "how far each layer is from the base's is not known"),
    "the expert's own distance is unknown": ({"expert": None}, "is not known"),
    "the expert is the base": ({"expert": 0.0}, "did not run with text"),
    **{
        f"far, without {title}": (
            {**FAR, "free": frozenset(COORDINATE_FREE) - {name}},
            f"and {title} did not run with text",
        )
        for name, title in COORDINATE_FREE.items()
    },
}


@pytest.mark.parametrize(("changes", "named"), UNDECIDED.values(), ids=UNDECIDED)
def test_each_condition_taken_away_leaves_it_undecided(changes, named):
    found = decide(replace(HOLDS, **changes))
    assert found.answer == "undecided" and found.level is None
    assert found.sentence.startswith("Undecided, and not a sign of protection: ")
    assert found.reasons and found.needs and len(set(found.needs)) == len(found.needs)
    assert named in " ".join([*found.reasons, *found.needs])
    assert found.needs[0] in found.sentence and found.reasons[0] in found.sentence
    assert ("At worst, with " in found.sentence) is (found.best is not None)
    assert found.document()["broken"] is False


def test_with_every_condition_it_holds_by_what_was_run():
    found = decide(HOLDS)
    assert (found.answer, found.level, found.needs) == ("holds", 3, ())
    assert found.sentence.startswith("Holds, by what was run")
    assert "as near to the base as fine-tuning leaves it, in every layer" in found.reasons[-1]
    assert "no common coordinates" not in found.sentence
    assert decide(replace(HOLDS, aligned=HOLDS.expert * NEAR)).answer == "holds"
    for near in (layer(3, aligned=0.03 * NEAR), layer(3, expert=0.0, aligned=ROUNDED * NEAR)):
        assert decide(replace(HOLDS, **near)).answer == "holds"
    assert decide(replace(HOLDS, ceilings=())).level is None
    wide = decide(replace(HOLDS, **but(reached("text", 0.2, WIDE / 2 - 1e-9))))
    assert wide.answer == "holds" and "no interval of theft reaches above 35%" in wide.reasons


def test_far_from_the_base_it_holds_only_by_attacks_without_coordinates_and_says_so():
    for change in (
        FAR,
        {**FAR, "aligned": 0.03, "suspicious": True},
        {**FAR, "aligned": None},
        {**FAR, "aligned": 0.03, **layer(5, aligned=0.4)},
    ):
        found = decide(replace(HOLDS, **change))
        assert found.answer == "holds"
        assert "no common coordinates: pull-back and distillation into the merge" in found.sentence
        assert "ran with text and failed too" in found.reasons[-1]


@pytest.mark.parametrize(
    ("moved", "named"),
    [
        ((4,), "layer 4 (up to 50.0%"),
        ((1, 2), "layer 1, layer 2 (up to 50.0%"),
        ((1, 2, 9), "layer 1, layer 2, layer 9 (up to 50.0%"),
        (range(6), "layer 0, layer 1, layer 2, and 3 more (up to 50.0%"),
        (range(12), None),
    ],
)
def test_the_layers_that_moved_are_named_unless_all_did(moved, named):
    far = dict.fromkeys(moved, 0.4) | {max(moved): 0.5}
    layers = tuple(replace(one, aligned=far.get(n, 0.03)) for n, one in enumerate(HOLDS.layers))
    sentence = decide(replace(HOLDS, layers=layers, aligned=0.2)).sentence
    assert named in sentence if named else "layer" not in sentence


LEVELS = {"none": 0, "align": 1, "data-free": 1, "text": 2, "labels": 2}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "spoilt",
    [{}, {"controls": {}}, {"failed": ("x",)}, {"left_out": (("x", "y"),)}, {"aligned": None}],
    ids=["all well", "no controls", "failed", "left out", "no alignment"],
)
def test_half_of_the_open_merge_is_broken_whatever_else_is_missing(stage, spoilt):
    facts = replace(HOLDS, **but(reached(stage, BROKEN, 0.4, method="slerp")), **spoilt)
    found = decide(facts)
    assert (found.answer, found.level) == ("broken", LEVELS[stage])
    assert (found.best.attack, found.best.method) == (stage, "slerp")
    assert "slerp reaches V = 0.45, 50% (10% to 90%)" in found.sentence
    assert decide(replace(facts, **but(reached(stage, BROKEN - 1e-9)))).answer != "broken"


def test_an_attack_dearer_than_the_ceilings_breaks_it_and_the_sentence_says_so():
    for seconds, than, level in (
        (99.0, "less than", 2),
        (100.0, "no less than", 3),
        (101.0, "no less than", 3),
    ):
        dear = but(reached("text", 0.8, seconds=seconds, unlabelled=30))
        found = decide(replace(HOLDS, **dear))
        assert (found.answer, found.level) == ("broken", level)
        assert (
            f"{seconds:.0f} s and 30 unlabelled items, {than} what open weights" in found.sentence
        )


def best(*cells):
    return decide(Facts(reached=cells)).best


def test_one_best_cell_the_cheapest_of_those_within_the_strongest_ones_interval():
    strong = reached(theft=0.9, half=0.1, seconds=60.0, method="strong")
    for theft, seconds, chosen in (
        (0.8, 59.0, True),  # at the interval's end
        (0.8 - 1e-9, 1.0, False),
        (0.85, 60.0, False),  # no cheaper
        (0.9, 59.0, True),
        (0.9, 61.0, False),
    ):
        other = reached(theft=theft, half=0.3, seconds=seconds, method="other")
        assert best(strong, other) is best(other, strong) is (other if chosen else strong)
    least = reached(theft=0.81, seconds=2.0, method="least")
    again = replace(least, method="again")
    assert best(strong, reached(theft=0.88, seconds=3.0), least) is least
    assert best(least, again) is least and best(again, least) is again


def test_the_best_cell_is_a_theft_itself_where_there_is_one():
    """An interval may reach below the bar: what is there broke nothing."""
    wide = reached("align", 0.55, 0.2, seconds=60.0, method="wide")
    cheap = reached("align", BROKEN - 1e-9, 0.0, seconds=1.0, method="cheap")
    assert best(wide, cheap) is best(cheap, wide) is wide
    # Of thefts that fail, the worst case is named, whatever it costs.
    first, worst = reached("text", 0.3, 0.2, 1.0), reached("text", 0.31, 0.2, 60.0)
    assert best(first, worst) is best(worst, first) is worst
    # What costs more data is named where nothing cheaper broke it.
    text = reached("text", 0.99, 0.02, seconds=1.0)
    assert best(text, wide) is wide


def test_the_document_names_the_best_cell():
    found = decide(replace(HOLDS, **but(reached("data-free", 0.9, method="sce"))))
    best, document = found.best, found.document()
    assert (document["answer"], document["broken"]) == ("broken", True)
    assert (document["attack"], document["method"]) == ("data-free", "sce")
    assert document["value"] == best.value.document()
    assert document["theft"] == best.theft.document() and document["price"] == best.price
    for name in ("value", "theft", "attack", "method", "price"):
        assert decide(Facts()).document()[name] is None


def test_the_words_of_a_theft():
    free, labelled = (
        reached("align", 1.0, 0.02, 13.2),
        reached("labels", 0.8, 0.02, 1510, labelled=9),
    )
    assert decide(Facts(reached=(free, reached("none", 0.0)))).sentence == (
        "Broken in 13 s and without data: after the align attack, ties reaches V = 0.90, 100% "
        "(98% to 102%) of what the best merge of the unprotected expert is worth; an unmodified "
        "merge tool gets V = 0.00."
    )
    assert "costs 25 minutes and 9 labelled items, less than" in decide(Facts((labelled,))).sentence
    assert decide(Facts((reached("none", 0.9),))).sentence.startswith(
        "Not protected: merged as rel"
    )


def test_a_long_list_is_cut_in_the_sentence_and_whole_in_the_report():
    many = tuple((f"part {n}", f"need {n}") for n in range(9))
    found = decide(replace(HOLDS, left_out=many))
    assert len(found.reasons) == len(found.needs) == 9
    assert "need 2; and 6 more." in found.sentence and "need 3" not in found.sentence


@pytest.mark.parametrize(("answer", "code"), [("holds", 0), ("broken", 1), ("undecided", 5)])
def test_each_answer_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys, answer, code):
    document = DOCUMENTS["full"]()
    document["verdict"] |= {"answer": answer, "broken": answer == "broken"}
    monkeypatch.setattr("unmergeable.models.process.restart_once", lambda: None)
    monkeypatch.setattr("unmergeable.auditing.audit.audit", lambda *_, **__: AuditReport(document))
    (tmp_path / "tasks.yaml").write_text("")
    options = {name: tmp_path / name for name in ("base", "original", "peer", "tasks.yaml", "out")}
    typed = [part for n, p in options.items() for part in (f"--{n.split('.')[0]}", str(p))]
    assert main(["audit", "release", *typed]) == code
    assert (tmp_path / "out" / "report.html").exists()
    assert "## Merge audit" in capsys.readouterr().out
