"""The whole audit on a tiny model: everything is real but the model and the texts."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.auditing.scene import audited, scene, task_file
from tests.auditing.short import SMALL, shorten
from tests.evaluation.living import model, save
from unmergeable.attacks import ladder
from unmergeable.attacks.attack import Attack, Variant
from unmergeable.auditing import audit as module
from unmergeable.auditing import baselines, ensemble
from unmergeable.auditing import grid as grid_module
from unmergeable.auditing import plan as plan_module
from unmergeable.auditing.audit import audit
from unmergeable.auditing.cells import Cell, Measurement, Price
from unmergeable.auditing.controls import ControlError
from unmergeable.auditing.facts import facts
from unmergeable.auditing.report import check
from unmergeable.auditing.report.html import render_html
from unmergeable.auditing.report.markdown import render_markdown
from unmergeable.auditing.report.queries import Reading
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.merging import methods
from unmergeable.merging.method import Merged, MergeMethod


@pytest.fixture
def small(monkeypatch):
    """A small ensemble with one of everything; what trains does so at one rate, to two stops."""
    pytest.importorskip("mergekit")
    torch.set_num_threads(1)
    monkeypatch.setitem(ensemble.PRESETS, "small", SMALL)
    shorten(monkeypatch.setattr)


def run(folder, *, preset="small", **more):
    return audited(folder, preset, **more)


def cell(document, subject, attack, method):
    found = [
        c
        for c in document["cells"]
        if (c["subject"], c["attack"], c["method"]) == (subject, attack, method)
    ]
    return found[0]


def test_an_exact_lock_is_broken_by_alignment_and_the_report_says_so(small, tmp_path):
    document = run(tmp_path, train=True)
    check(document)
    json.dumps(document, allow_nan=False)
    opened, released, aligned = (
        cell(document, subject, attack, "task_arithmetic")
        for subject, attack in (("open", "none"), ("protected", "none"), ("protected", "align"))
    )
    # The lossless lock is undone to the bit: every figure of the aligned model is the open one's.
    for name in ("value", "shares", "scores", "coefficients", "tried"):
        assert aligned[name] == opened[name]
    assert opened["value"]["value"] > 0.5 and opened["theft"] is None
    assert aligned["theft"]["value"] == pytest.approx(
        aligned["value"]["value"]
        / max(
            cell(document, "open", "none", m)["value"]["value"]
            for m in ("task_arithmetic", "karcher")
        )
    )
    assert released["scores"] != opened["scores"]
    assert document["verdict"]["broken"] and document["verdict"]["level"] in (0, 1)
    assert document["verdict"]["price"]["labelled"] == 0
    assert all(control["passed"] for control in document["controls"])
    assert {c["name"] for c in document["controls"]} == {
        "experts learned",
        "tasks differ",
        "release works",
        "alignment undoes a lock",
        "key unlocks",
        "open expert merges",
    }
    # The sentence, the table and the document name the same cell.
    verdict, reading = document["verdict"], Reading(check(document))
    named, names = reading.attacked, ("attack", "method", "value", "theft", "price")
    assert [named[name] for name in names] == [verdict[name] for name in names]
    (column,) = (
        c
        for c in reading.columns()
        if c.subject == "protected" and c.attack["name"] == verdict["attack"]
    )
    assert column.best is named
    assert f"V = {named['value']['value']:.2f}" in verdict["sentence"]
    distances = document["distances"]["of"]
    assert distances["aligned model"] == pytest.approx(distances["original"], rel=1e-3)
    assert document["distances"]["far"] == {}
    # Methods that keep a set of weights per task are shown, and count for nothing.
    routed = cell(document, "protected", "none", "emr")
    assert routed["value"] and routed["theft"] is None
    assert document["verdict"]["method"] != "emr"
    # Prices: alignment first, then what the attack adds.
    assert aligned["price"]["seconds"] >= document["attacks"][1]["price"]["seconds"] > 0
    reset, tuned = (
        cell(document, "protected", a, "task_arithmetic") for a in ("reset", "fine_tune")
    )
    assert "variant" in reset["coefficients"] and reset["price"]["labelled"] == 0
    assert tuned["price"]["labelled"] > 0
    assert tuned["price"]["seconds"] >= aligned["price"]["seconds"] > 0
    assert cell(document, "protected", "align:aga", "task_arithmetic")["status"] == "measured"
    line = {curve["name"]: curve for curve in document["line"]["curves"]}
    assert document["line"]["at"] == [0, 0.5, 1] and set(line) == {"open", "protected", "aligned"}
    assert line["open"]["losses"] == line["aligned"]["losses"] != line["protected"]["losses"]
    # The two ends are the peer and the model itself, which a lock does not change.
    for task in ("living", "stones"):
        for end in (0, -1):
            accuracies = [curve["accuracies"][task][end] for curve in line.values()]
            assert max(accuracies) - min(accuracies) < 0.03
    moved = {c["name"]: c["values"] for c in document["displacement"]["curves"]}
    assert moved["open"] == moved["aligned"] and min(moved["protected"]) > max(moved["open"])
    assert document["displacement"]["layers"] == ["embeddings", "0", "1"]
    assert facts(document).near and len(facts(document).layers) == 3
    names = [claim["defence"] for claim in document["claims"]]
    assert names and set(names) == {"lock"}


def test_a_second_run_looks_everything_up_and_a_killed_one_goes_on(small, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def stop(status):
        if "reset" in status.what:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, train=True, progress=stop)
    told = []
    first = run(tmp_path, train=True, progress=told.append)
    assert first["provenance"]["looked_up"] > 20
    assert all(one.done <= one.total and one.unit == "steps" for one in told)
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == told[-1].total and told[-1].seconds_left == 0
    # What is not kept is what has to be done anew: nothing that is scored.
    again = run(tmp_path, train=True)
    assert again["provenance"]["evaluations"] == 0
    for name in ("cells", "verdict", "line", "price_curve", "tasks", "flags"):
        assert again[name] == first[name], name


def test_another_seed_and_other_items_are_measured_anew(small, tmp_path):
    first = run(tmp_path)
    path = tmp_path / "living-test.jsonl"
    shorter = task_file(tmp_path)
    path.write_text("\n".join(path.read_text().splitlines()[:40]))
    document = audit(
        scene()["protected"],
        base=scene()["base"],
        original=scene()["original"],
        peers=[scene()["peer"]],
        tasks=shorter,
        preset="small",
        cache=tmp_path / "cache",
    ).to_dict()
    assert document["provenance"]["evaluations"] > 0
    assert document["tasks"][0]["items"]["test"] == 40
    assert document["tasks"][0]["hash"] != first["tasks"][0]["hash"]
    assert any("no key" in entry["why"] for entry in document["not_run"])


def test_plugins_join_and_their_faults_are_cells_with_a_reason(small, tmp_path, monkeypatch):
    def broken(ingredients, **parameters):
        raise RuntimeError("no such luck")

    def dropping(ingredients):
        state = dict(ingredients.models[0])
        state.pop("model.norm.weight")
        return Merged(state)

    plugins = {
        "broken": MergeMethod("broken", "Broken", "none", broken),
        "dropping": MergeMethod("dropping", "Dropping", "none", dropping),
    }
    monkeypatch.setattr(methods, "methods", lambda: {**methods.OWN, **plugins})

    def mine(thief, released):
        assert not hasattr(thief, "original") and not hasattr(thief, "key")
        yield Variant("as it is", released)

    attack = Attack("mine", "my attack", "Does nothing.", "data-free", before=mine)
    monkeypatch.setattr(plan_module, "attacks", lambda: {"mine": attack})
    chosen = replace(
        SMALL, methods=("task_arithmetic", "broken", "dropping"), attacks=None, line=0, aligns=()
    )
    monkeypatch.setattr(plan_module, "CEILINGS", ())
    monkeypatch.setitem(ensemble.PRESETS, "small", chosen)
    document = run(tmp_path)
    check(document)
    failed = cell(document, "open", "none", "broken")
    assert failed["status"] == "failed" and failed["reason"] == "RuntimeError: no such luck"
    assert "norm" in cell(document, "open", "none", "dropping")["reason"]
    assert {m["name"]: m["source"] for m in document["methods"]}["broken"] == "plugin"
    names = {flag["name"] for flag in document["flags"]}
    assert "cells failed" in names and "tensors dropped" in names
    done, aligned = (cell(document, "protected", a, "task_arithmetic") for a in ("mine", "align"))
    assert done["value"] == aligned["value"]
    assert document["line"] is None


def test_every_ceiling_and_every_attack_with_data_runs(small, tmp_path, monkeypatch):
    chosen = [a for a in ladder.LADDER if a.texts in ("", "generic") and a.stage != "data-free"]
    monkeypatch.setattr(plan_module, "attacks", lambda: {a.name: a for a in chosen[:3]})
    names = ("fine_tune_release", "distil_release_generic", "distil_release_near")
    ceilings = tuple(ladder.attack_named(name) for name in names)
    monkeypatch.setattr(plan_module, "CEILINGS", ceilings)
    preset = replace(SMALL, methods=("task_arithmetic", "regmean"), attacks=None, line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    document = run(tmp_path, texts=True, train=True)
    check(document)
    assert len(document["price_curve"]["ceilings"]) >= 2
    for ceiling in document["price_curve"]["ceilings"]:
        seconds = [point["price"]["seconds"] for point in ceiling["points"]]
        assert seconds == sorted(seconds) and len(seconds) > 1
    assert cell(document, "open", "none", "regmean")["status"] == "measured"
    for attack in chosen[:3]:
        found = cell(document, "protected", attack.name, "task_arithmetic")
        assert found["status"] == "measured", found["reason"]
        assert found["price"]["unlabelled"] or found["price"]["labelled"]
    assert any("near" in entry["why"] for entry in document["not_run"])


def test_attacks_that_train_tell_what_won_and_what_the_open_expert_costs(
    small, tmp_path, monkeypatch
):
    names = ("distil_merge_random", "learnt_coefficients")
    preset = replace(SMALL, methods=("task_arithmetic",), attacks=names, line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    document = run(tmp_path)
    report = check(document)
    trained = {each["name"]: each.get("trained") for each in document["attacks"]}
    assert trained["align"] is None and set(names) <= set(trained)
    for name in names:
        found = [c for c in document["cells"] if c["attack"] == name]
        assert found and all(c["status"] == "measured" for c in found), found[0]["reason"]
        told = trained[name]
        best = max(found, key=lambda c: c["value"]["value"])
        assert told["won"] in {c["coefficients"]["variant"] for c in found}
        # The lossless lock is undone to the bit: the same attack costs the same but for alignment.
        assert best["value"]["value"] == 0 or told["multiple"] >= 1
        if told["open"]:
            assert told["open"]["labelled"] == best["price"]["labelled"]
    assert "AdamW" in trained[names[0]]["won"] or "SGD" in trained[names[0]]["won"]
    assert trained[names[0]]["alone"] is None
    # Without the release the items are worth less than the merge that they helped to find.
    learnt = max(c["value"]["value"] for c in document["cells"] if c["attack"] == names[1])
    assert trained[names[1]]["alone"]["value"] < learnt
    assert {c["price"]["labelled"] for c in document["cells"] if c["attack"] == names[0]} == {0}
    assert {c["price"]["labelled"] for c in document["cells"] if c["attack"] == names[1]} == {80}
    assert "without the release V" in render_markdown(report)
    assert "settings that won" in render_html(report)
    # Random inputs are no text: they do not stand for it where a verdict asks for text.
    assert facts(document).free == frozenset()
    again = run(tmp_path)
    assert again["provenance"]["evaluations"] == 0 and again["attacks"] == document["attacks"]


def test_the_open_expert_is_attacked_until_it_gives_as_much_and_no_longer():
    measured = [Measurement({"variant": name}, {"x": 1}, scores=[worth]) for name, worth in WORTH]
    made = []

    class Fake:
        inputs = SimpleNamespace(value=lambda scores: scores[0])

        def start(self, cell):
            return cell.subject

        def snapshots(self, attack, subject, start, until=None):
            out = []
            for one in measured:
                made.append((subject, one.label["variant"]))
                out.append(replace(one, price=Price(seconds=2.0 * (1 + len(out)))))
                if until and until.reached(one):
                    break
            return out

    attack = Attack("a", "a", "A.", "labels", instead=lambda *_: iter(()), sweeps=True)
    cell = Cell("protected", None, attack=attack)
    reached = [replace(measured[1], price=Price(seconds=12.0))]
    told = baselines.compared(Fake(), cell, reached)
    assert told.won == "second" and told.multiple == 3.0 and told.opened.seconds == 4.0
    assert made == [("open", "first"), ("open", "second")]
    made.clear()
    nothing = [replace(measured[0], scores=[SimpleNamespace(value=0.0)])]
    told = baselines.compared(Fake(), cell, nothing)
    assert told.multiple is None and told.won == "first" and not made
    assert baselines.compared(Fake(), cell, [Measurement(reason="diverged")]) is None


WORTH = [(name, SimpleNamespace(value=at)) for name, at in (("first", 0.2), ("second", 0.6))]
WORTH.append(("third", SimpleNamespace(value=0.9)))


def test_what_does_not_apply_to_a_model_is_left_out_and_asked_for_by_no_verdict(
    small, tmp_path, monkeypatch
):
    odd = Attack(
        "odd", "odd", "Odd.", "data-free", after=lambda *_: iter(()), suits=lambda _: "no eyes"
    )
    monkeypatch.setattr(plan_module, "attacks", lambda: {"odd": odd})
    preset = replace(SMALL, methods=("task_arithmetic",), attacks=("odd",), line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    document = run(tmp_path)
    (left,) = (each for each in document["not_run"] if each["what"] == "odd")
    assert left == {"what": "odd", "why": "not applicable: no eyes", "need": ""}
    assert not any(c["attack"] == "odd" for c in document["cells"])


def test_a_preset_may_name_one_ceiling(small, tmp_path, monkeypatch):
    chosen = ("fine_tune_release",)
    preset = replace(SMALL, methods=("task_arithmetic",), attacks=chosen, line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    document = run(tmp_path, train=True)
    check(document)
    assert [found["name"] for found in document["price_curve"]["ceilings"]] == list(chosen)
    assert any(entry["what"] == "some of the ceilings" for entry in document["not_run"])


def test_other_texts_make_another_variant(small, tmp_path, monkeypatch):
    """What an attack makes of one text must not be looked up for another of the same size."""
    seen = []

    def reading(thief, released):
        first = thief.texts["generic"].batches[0].inputs["input_ids"]
        seen.append(first)
        shift = float(first.float().mean()) / 100
        yield Variant("18 generic texts", {n: t * (1 - shift) for n, t in released.items()})

    attack = Attack("reading", "reading", "Reads.", "text", before=reading, texts="generic")
    monkeypatch.setattr(plan_module, "attacks", lambda: {"reading": attack})
    monkeypatch.setattr(plan_module, "CEILINGS", ())
    preset = replace(SMALL, methods=("task_arithmetic",), attacks=None, line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    for words in ("w1 w2", "w3 w4"):
        path = task_file(tmp_path, texts=True)
        (tmp_path / "generic.txt").write_text("\n".join([words] * 18))
        models = {name: scene()[name] for name in ("base", "original")}
        document = audit(
            scene()["protected"], **models, peers=[scene()["peer"]], tasks=path,
            preset="small", cache=tmp_path / "cache",
        ).to_dict()  # fmt: skip
        assert cell(document, "protected", "reading", "task_arithmetic")["status"] == "measured"
    assert len(seen) == 2 and not torch.equal(*seen)
    assert document["provenance"]["evaluations"] > 0


def test_an_attack_that_fails_is_a_cell_with_a_reason(small, tmp_path, monkeypatch):
    def breaking(thief, released, merged):
        yield Variant("first", merged)
        raise RuntimeError("diverged")

    def idle(thief, released, merged):
        yield from ()

    found = {
        name: Attack(name, name, "Fails.", "labels", after=run_it)
        for name, run_it in (("breaking", breaking), ("idle", idle))
    }
    monkeypatch.setattr(plan_module, "attacks", lambda: found)
    preset = replace(SMALL, methods=("task_arithmetic",), attacks=tuple(found), line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    document = run(tmp_path)
    check(document)
    cells = {name: [c for c in document["cells"] if c["attack"] == name] for name in found}
    assert [c["status"] for c in cells["breaking"]] == ["measured", "skipped"]
    assert cells["breaking"][1]["reason"] == "RuntimeError: diverged"
    own = [e for e in document["not_run"] if "fails on the open expert, too" in e["why"]]
    assert len(own) == 2 and not any(entry["need"] for entry in own)
    # It started at the best merge of the aligned model, so its first snapshot is as good.
    start = cell(document, "protected", "align", "task_arithmetic")
    assert cells["breaking"][0]["scores"] == start["scores"]
    assert [c["reason"] for c in cells["idle"]] == ["the attack had nothing to try on this model"]


def test_the_price_of_a_merge_outlives_its_cell(small, tmp_path, monkeypatch):
    """A change of our code stales the cells; scores and prices of mergekit's merges stay."""
    preset = replace(SMALL, methods=("task_arithmetic", "ties"), attacks=(), line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    first = run(tmp_path)
    monkeypatch.setattr(grid_module, "code_digest", lambda: "changed")
    again = run(tmp_path)
    assert again["provenance"]["evaluations"] == 0
    for method in ("task_arithmetic", "ties"):
        prices = [cell(d, "open", "none", method)["price"]["seconds"] for d in (first, again)]
        assert prices[0] == prices[1] > 0


def test_methods_that_need_inputs_are_skipped_with_the_reason(small, tmp_path, monkeypatch):
    preset = replace(SMALL, methods=("task_arithmetic", "regmean"), attacks=(), line=0, aligns=())
    monkeypatch.setitem(ensemble.PRESETS, "small", preset)
    found = cell(run(tmp_path), "open", "none", "regmean")
    assert found["status"] == "skipped" and "unlabelled texts" in found["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original": "base"}, "every expert is better than the base"),
        ({"peer": "base"}, "every expert is better than the base"),
        ({"protected": "base"}, "the protected model alone does the expert's task"),
        ({"key": "other"}, "was protected with the key"),
    ],
)
def test_a_control_that_fails_stops_the_audit(small, tmp_path, changes, message):
    from unmergeable.keys.key import Key

    folders = {"base": scene()["base"], "other": Key(bytes(32))}
    with pytest.raises(UnmergeableError, match=message):
        run(tmp_path, **{name: folders[value] for name, value in changes.items()})


def test_a_peer_that_does_not_merge_stops_the_audit(small, tmp_path, monkeypatch):
    monkeypatch.setattr(module.controls, "MERGEABLE", 1.1)
    with pytest.raises(ControlError, match="merges well with the same tools"):
        run(tmp_path)


def test_an_expert_that_does_every_task_stops_the_audit(small, tmp_path, monkeypatch):
    """The peer is the owner's own expert: it has nothing to steal."""
    tasks = yaml.safe_load(task_file(tmp_path).read_text())
    own = next(task for task in tasks["tasks"] if task["of"] == "protected")
    again = {**own, "words": list(own["words"]), "name": "again", "of": "peer"}
    tasks["tasks"] = [own, again]
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(tasks))
    with pytest.raises(ControlError, match=r"original alone: V = 1\.00.*original alone does every"):
        run(tmp_path, peer=scene()["original"], tasks=tmp_path / "twice.yaml")


def test_models_that_do_not_fit_are_refused_with_tensor_and_shapes(small, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(scene()["peer"], other)
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: torch.zeros(8, 32)}, other / "model.safetensors")
    with pytest.raises(InputError, match=rf"{name}.*\(8, 32\).*\(48, 32\)"):
        run(tmp_path, peer=other)
    with pytest.raises(InputError, match="no preset 'nothing'; there is"):
        run(tmp_path, preset="nothing")


def test_a_base_that_is_not_the_base_is_flagged_with_the_figure(small, tmp_path, monkeypatch):
    """Something of the base's shape: a control fails, and the error names what is suspicious."""
    far = tmp_path / "far"
    save(model(seed=7), far)
    for name in ("experts_learned", "tasks_differ", "release_works"):
        held = getattr(module.controls, name)
        monkeypatch.setattr(
            module.controls, name, lambda s, held=held: replace(held(s), passed=True)
        )
    with pytest.raises(ControlError, match=r"original is \d+% of the base's norm away"):
        run(tmp_path, base=far)
    monkeypatch.setattr(module.controls, "demand", lambda control, inputs: control)
    document = run(tmp_path, base=far)
    flags = [flag for flag in document["flags"] if "far from the base" in flag["name"]]
    assert len(flags) >= 2 and {flag["severity"] for flag in flags} == {"red"}
    assert all("%" in flag["what"] for flag in flags)


def test_the_host_is_left_able_to_run(small, tmp_path):
    """Routed methods rewire the model; whatever is loaded next must find it whole."""
    preset = replace(SMALL, methods=("smile", "task_arithmetic"), attacks=(), line=0, aligns=())
    ensemble.PRESETS["small"] = preset
    document = run(tmp_path)
    alone = replace(preset, methods=("task_arithmetic",))
    ensemble.PRESETS["small"] = alone
    other = tmp_path / "alone"
    other.mkdir()
    found = run(other)
    for attack in ("none", "align"):
        cells = [cell(d, "protected", attack, "task_arithmetic") for d in (document, found)]
        assert cells[0]["scores"] == cells[1]["scores"]
