"""Attacks of installed packages join the audit, and take nothing from it."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from tests.auditing.cheats import TINY, release, run
from tests.auditing.test_tricks import near_and_worthless
from unmergeable import registry
from unmergeable.attacks import ladder
from unmergeable.attacks.attack import Attack, Variant
from unmergeable.auditing import ensemble
from unmergeable.errors import InputError
from unmergeable.models.weights import Weights

KNOWN: dict[str, Attack] = {}


class Point(EntryPoint):
    """One whose attack is here."""

    def load(self):
        return KNOWN[self.name]


@pytest.fixture
def installed(monkeypatch, tiny):
    """Installs attacks, which are all that the audit tries."""

    def install(*attacks):
        KNOWN.update({attack.name: attack for attack in attacks})
        points = [Point(a.name, f"package:{a.name}", ladder.GROUP) for a in attacks]
        monkeypatch.setattr(
            registry, "entry_points", lambda group: points if group == ladder.GROUP else []
        )
        chosen = replace(TINY, attacks=tuple(attack.name for attack in attacks))
        monkeypatch.setitem(ensemble.PRESETS, "tiny", chosen)
        return tiny

    return install


def attack(name, run_it, stage="data-free", where="before"):
    return Attack(name, f"the {name}", "Tries.", stage, **{where: run_it})


def knowing(folder):
    """An attack that knows how this release is undone."""

    def undo(thief, released):
        yield Variant("undone", Weights.read(folder).tensors)

    return undo


def test_one_that_succeeds_breaks_the_release_and_is_named(installed, tmp_path, monkeypatch):
    from tests.auditing.scene import KEY, scene

    near_and_worthless(monkeypatch)
    mine = attack("mine", knowing(scene()["original"]))
    document = run(installed(mine), tmp_path, key=KEY)
    verdict = document["verdict"]
    assert (verdict["answer"], verdict["attack"]) == ("broken", "mine")
    assert "after the mine" in verdict["sentence"]


def crash(error, on=lambda state: True):
    def fails(thief, released, *merged):
        if on(released):
            raise error
        yield Variant("as it is", dict(released))

    return fails


class OwnError(Exception):
    """What no library of ours knows."""


ERRORS = [RuntimeError("no"), AssertionError("no"), OSError("no"), OwnError("no")]


@pytest.mark.parametrize("where", ["before", "after", "instead"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_one_that_crashes_on_every_model_is_its_own_failure(
    installed, tmp_path, monkeypatch, error, where
):
    from tests.auditing.scene import KEY

    near_and_worthless(monkeypatch)
    cache = installed(attack(f"bad {where} {type(error).__name__}", crash(error), where=where))
    document = run(cache, tmp_path, key=KEY, may_hold=True)
    assert document["verdict"]["answer"] == "holds"
    (told,) = (e for e in document["not_run"] if "fails on the open expert, too" in e["why"])
    assert told["what"].startswith("the bad") and not told["need"]
    assert any(cell["reason"] == f"{type(error).__name__}: no" for cell in document["cells"])


@pytest.mark.parametrize("where", ["before", "after", "instead"])
def test_one_that_crashes_on_the_release_alone_leaves_it_undecided(
    installed, tmp_path, monkeypatch, where
):
    from tests.auditing.scene import KEY, scene

    near_and_worthless(monkeypatch)
    name = "model.layers.0.mlp.up_proj.weight"
    open_one = Weights.read(scene()["original"]).tensors[name]
    stumbling = crash(OSError("?"), lambda state: not (state[name] == open_one).all())
    cache = installed(attack(f"picky {where}", stumbling, where=where))
    verdict = run(cache, tmp_path, key=KEY)["verdict"]
    assert verdict["answer"] == "undecided"
    assert f"the picky {where}, with task_arithmetic, failed" in verdict["reasons"]


def test_one_whose_own_check_crashes_is_left_out(installed, tmp_path, monkeypatch):
    from tests.auditing.scene import KEY

    def lost(thief):
        raise OSError("no file")

    near_and_worthless(monkeypatch)
    bad = replace(attack("lost", crash(RuntimeError("no"))), suits=lost)
    document = run(installed(bad), tmp_path, key=KEY, may_hold=True)
    assert document["verdict"]["answer"] == "holds"
    (told,) = (each for each in document["not_run"] if each["what"] == "the lost")
    assert "it cannot tell whether it applies: OSError: no file" in told["why"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_none_turns_broken_into_anything_else(installed, tmp_path, where):
    cache = installed(attack(f"sour {where}", crash(RuntimeError("no")), where=where))
    assert run(cache, tmp_path)["verdict"]["answer"] == "broken"
    plain = release(tmp_path, lambda tensors: None)
    assert run(cache, tmp_path, protected=plain)["verdict"]["level"] == 0


@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("align", "text", "called 'align'"),
        ("align:mine", "text", "called 'align:mine'"),
        ("none", "text", "called 'none'"),
        ("mine", "ceiling", "of stage 'ceiling'"),
        ("mine", "free", "stages data-free, text, labels"),
        ("pull_back_mine", "text", "'pull_back_mine', as attacks that a verdict rests on begin"),
        ("distil_merge_x", "text", "'distil_merge_x', as"),
        ("reset", "data-free", "a name in use"),
    ],
)
def test_one_that_poses_as_a_step_of_the_audit_is_refused(
    installed, tmp_path, name, stage, message
):
    cache = installed(attack(name, crash(RuntimeError("no")), stage))
    with pytest.raises(InputError, match=message):
        run(cache, tmp_path)
