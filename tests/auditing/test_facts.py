"""What of a report counts for its verdict."""

import pytest

from tests.auditing.report.synthetic import DOCUMENTS, unmeasured
from unmergeable.auditing.facts import facts
from unmergeable.auditing.verdict import Layer, decide


@pytest.fixture
def document():
    found = DOCUMENTS["full"]()
    for cell in found["cells"]:
        if cell["subject"] == "open":
            cell["theft"] = None
    return found


def places(document, *, subject="protected", attack="norms", method="linear"):
    cells = document["cells"]
    wanted = (subject, attack, method)
    return [i for i, c in enumerate(cells) if (c["subject"], c["attack"], c["method"]) == wanted]


def change(document, make, **where):
    (at,) = places(document, **where)
    document["cells"][at] = make(document["cells"][at])


def test_what_was_reached_is_every_theft_of_the_protected_model(document):
    found = facts(document).reached
    assert len(found) == sum(bool(c["theft"]) for c in document["cells"])
    assert {(each.stage, each.title) for each in found} >= {("text", "Closed-form repair")}
    document["price_curve"]["ceilings"] = []
    verdict = decide(facts(document))
    assert (verdict.answer, verdict.best.attack, verdict.best.method) == (
        "broken",
        "tune",
        "linear",
    )
    # The page and the card name the same cell, the figure the same theft.
    assert verdict.document()["theft"]["value"] == max(
        part["theft"]["value"] for part in document["price_curve"]["attacks"]
    )


def test_an_attack_that_failed_on_the_release_counts(document):
    assert facts(document).failed == ("Norm matching, with wudi,",)
    change(
        document,
        lambda cell: unmeasured(cell, "failed", "x"),
        subject="open",
        attack="none",
        method="wudi",
    )
    # That it fails on the open expert, too, excuses a plain merge and no attack that needs one.
    assert facts(document).failed == ("Norm matching, with wudi,",)
    change(document, lambda cell: unmeasured(cell, "failed", "x"), attack="align", method="wudi")
    assert facts(document).failed == ("Norm matching, with wudi,",)
    change(document, lambda cell: unmeasured(cell, "failed", "x"), attack="align", method="slerp")
    assert "Alignment to the base, with slerp," in facts(document).failed


@pytest.mark.parametrize(
    "spoil",
    [lambda cell: cell | {"finite": False}, lambda cell: cell | {"value": None, "theft": None}],
    ids=["not finite", "no figure"],
)
def test_a_merge_that_computes_nothing_finite_failed(document, spoil):
    change(document, spoil)
    assert facts(document).failed == ("Norm matching, with linear, wudi,",)
    routed = next(method for method in document["methods"] if method["name"] == "linear")
    routed["routed"] = True
    assert facts(document).failed == ("Norm matching, with wudi,",)


def test_many_failures_are_counted(document):
    for method in ("linear", "task-arithmetic", "ties", "slerp"):
        change(document, lambda cell: cell | {"finite": False}, method=method)
    assert facts(document).failed == (
        "Norm matching, with linear, task-arithmetic, ties and 2 more,",
    )


def test_what_was_left_out_counts_where_the_verdict_asks_for_it(document):
    assert facts(document).left_out == (("Attacks with more than 2,000 texts", "give more texts"),)


def test_a_wrong_base_is_told_apart_from_a_release_that_resists(document):
    """The open expert is far from the base, or the aligned release alone is."""
    resisting = facts(document)
    assert resisting.suspicious and not resisting.distant and not resisting.near
    assert (resisting.expert, resisting.aligned) == (0.02, 0.41)
    document["distances"]["far"]["original"] = "the original is 90% away"
    document["distances"]["far"]["peer 1"] = "the peer 1 is 80% away"
    (original, base), (_, same) = facts(document).distant
    assert original == "the original is 90% away" and base == same
    assert base == "give the base that the expert and the peers were fine-tuned from"
    del document["distances"]["far"]["original"]
    assert facts(document).distant == (
        ("the peer 1 is 80% away", "give peers that were fine-tuned from the base of the expert"),
    )
    document["distances"] = {"of": {"original": 0.02, "aligned model": 0.021}, "far": {}}
    assert not facts(document).near  # some layers are far
    curves = {curve["name"]: curve for curve in document["displacement"]["curves"]}
    curves["aligned"]["values"] = curves["open"]["values"]
    assert facts(document).near


def test_layers_are_those_of_the_open_expert_and_the_aligned_model(document):
    moved = document["displacement"]
    moved["curves"][2]["values"][3] = None
    found = facts(document).layers
    assert [layer.name for layer in found] == moved["layers"]
    assert found[1] == Layer("0", 0.004 + 0.0004, 0.022) and found[3].aligned is None
    assert found[31].title == "final norm" and found[1].title == "layer 0"
    for lacking in ("open", "aligned"):
        known = [curve for curve in moved["curves"] if curve["name"] != lacking]
        document["displacement"] = {**moved, "curves": known}
        assert facts(document).layers == () and not facts(document).near
    document["displacement"] = None
    assert facts(document).layers == ()


def test_attacks_without_coordinates_are_known_by_name_and_stage(document):
    assert facts(document).free == frozenset()
    repair = next(attack for attack in document["attacks"] if attack["name"] == "repair")
    repair["name"] = "pull_back_generic"
    for cell in document["cells"]:
        if cell["attack"] == "repair":
            cell["attack"] = "pull_back_generic"
    assert facts(document).free == {"pull_back"}
    repair["stage"] = "labels"
    assert facts(document).free == frozenset()
    repair["stage"] = "text"
    for cell in document["cells"]:
        cell["finite"] = False
    assert facts(document).free == frozenset()


def test_few_items_count_and_shared_ones_do_not(document):
    assert facts(document).doubts == ()
    document["tasks"][0]["items"] |= {"distinct": 9, "in_validation": 3}
    (few, need), (repeated, _) = facts(document).doubts
    assert "9 different test items" in few and "100" in need and "391 of the 400" in repeated


def test_what_the_release_kept_is_the_worst_of_the_owners_tasks(document):
    own = [task for task in document["tasks"] if task["of"] == "protected"]
    assert facts(document).retained == pytest.approx(1.005, abs=0.01)
    own[0]["scores"]["protected"]["accuracy"] = 0.719
    assert facts(document).retained == pytest.approx(0.5)
    own[0]["scores"]["expert"]["accuracy"] = own[0]["scores"]["base"]["accuracy"]
    assert facts(document).retained == 0.0
    document["tasks"] = [task for task in document["tasks"] if task["of"] != "protected"]
    assert facts(document).retained is None
