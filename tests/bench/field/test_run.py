"""The miniature: the whole benchmark's own code on a tiny model."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench.field.small import living, suite
from tests.tiny import weights_of
from unmergeable.attacks import sweep
from unmergeable.auditing import ensemble
from unmergeable.bench.field import artefact, check, defended, index, kept, measure, page
from unmergeable.bench.field import resource_check as needs
from unmergeable.bench.field import run as driver
from unmergeable.bench.field.answer import answer, conclusion
from unmergeable.bench.field.defences import NONE, chosen_defences
from unmergeable.bench.field.results import Results
from unmergeable.bench.field.run import Order, run
from unmergeable.bench.field.suite import Suite, TaskRecipe
from unmergeable.errors import DownloadError, InputError
from unmergeable.evaluation import store
from unmergeable.relocation import relocate
from unmergeable.relocation.regrowth import EFFORTS, Growth

ATTACKS = ("none", "aga", "align", "pull_back", "fine_tune", "fine_tune_release")
FEW = (*ATTACKS, "task_arithmetic", "emr")


def order(cache, rows=("lock",), only=FEW, **changes):
    return Order(
        **{
            "suites": [suite()],
            "defences": chosen_defences(rows),
            "cache": cache,
            "only": only,
            **changes,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few coefficients and one rate, as the tiny model needs no more."""
    pytest.importorskip("mergekit")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        pairs = ensemble._weights(ensemble._GRID[:4])
        patch.setitem(ensemble._MERGEKIT, "task_arithmetic", {"settings": pairs})
        patch.setattr(sweep, "GRID", sweep.GRID[:1])  # a sweep has tests of its own
        yield


@pytest.fixture(scope="module")
def done(small, tmp_path_factory):
    """The miniature in two pieces, with the cache they filled."""
    folder = tmp_path_factory.mktemp("field")
    told = []
    first = run(order(folder), told.append)
    second = run(
        order(folder, ("mergebarrier",), ("none", "align", "task_arithmetic")), told.append
    )
    assert not first.refused and not second.refused and second.known > 0
    return folder, first.measured + second.measured, told


@pytest.fixture
def fresh(done, tmp_path):
    """A cache with the experts in it, and nothing else."""
    folder, _, _ = done
    (tmp_path / "models").symlink_to(folder / "models")
    return tmp_path


def results(folder, quick=False):
    found = kept.in_cache(folder, "tiny", quick)
    assert found is not None
    return Results(found)


def of(document, folder):
    """Results of an index that a test changed."""
    places = document["cells"]
    cells = {where: artefact.read(folder, key) if key else None for where, key in places.items()}
    return Results(kept.Kept(document, cells))


def shown(folder, out, **more):
    """The page of what a cache folder knows."""
    known = kept.in_cache(folder, "tiny", False)
    kept.merge(kept.path_of(out, "tiny"), known)
    return page.write(out, **{"suites": ("tiny",), **more}).read_text()


def test_the_miniature_measures_every_cell(done):
    folder, count, told = done
    found = results(folder)
    measured, planned = found.counts
    assert measured == count < planned  # the page knows of what was not asked for
    assert any(", 0 min left]" in line for line in told)
    opened = found.best(NONE, ("none",))
    lock, barrier = (row for row in found.defences if row is not NONE)
    assert opened.value > 0.5 and opened.low <= opened.value <= opened.high
    # The lossless lock is undone to the bit; a rebuilt architecture is refused by every tool.
    aligned = found.best(lock, ("align",))
    assert aligned.value == pytest.approx(opened.value) and aligned.price["seconds"] > 0
    assert found.best(barrier, ("none",)) is None
    assert "architecture" in found.cell("pair", barrier, 0, "none", "task_arithmetic")["reason"]
    assert found.best(barrier, ("align",)) is not None
    lost = found.lost(lock)
    assert abs(lost.value) < 0.05 and lost.low <= lost.value <= lost.high
    tuned = found.cell("pair", lock, 0, "fine_tune", "task_arithmetic")
    assert tuned["price"]["labelled"] > 0 and "100 steps" in tuned["label"]["variant"]
    pulled = found.cell("pair", lock, 0, "pull_back", "task_arithmetic")
    assert pulled["reason"] or pulled["price"]["unlabelled"] > 0
    ceiling = found.cell("pair", lock, 0, "fine_tune_release")
    assert ceiling["points"] and ceiling["price"]["labelled"] > 0
    # What keeps weights per task is shown and counts for nothing.
    assert found.cell("pair", lock, 0, "align", "emr")["marks"]
    assert found.best(lock, ("align",)).method == "task_arithmetic"
    assert found.cell("crowd", lock, 0, "align", "task_arithmetic")["marks"].keys() == {
        "living",
        "stones",
        "pebbles",
    }


def test_a_second_run_measures_nothing_and_a_lost_cell_is_measured_again(done):
    folder, _, _ = done
    known = run(order(folder))
    assert known.measured == 0
    key = index.read(folder, "tiny", False)["cells"]["pair/lock/0/align/task_arithmetic"]
    cell = artefact.path_of(folder, key)
    before = artefact.read(folder, key)
    cell.unlink()
    again = run(order(folder))
    assert again.measured == 1 and again.known == known.known - 1
    after = artefact.read(folder, key)
    assert after["took"]["wall"] > 0 and after["took"]["cpu"] > 0
    changing = {"busy": 0, "seconds": 0, "took": 0}
    assert {**after, **changing} == {**before, **changing}


def stop_at_the_third(monkeypatch, error):
    """The third cell that is measured raises."""
    real, calls = measure._measured, []

    def third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return real(*arguments)

    monkeypatch.setattr(measure, "_measured", third)


def test_a_killed_run_keeps_all_but_the_cell_in_work(fresh, monkeypatch):
    class Killed(BaseException):
        pass

    stop_at_the_third(monkeypatch, Killed)
    with pytest.raises(Killed):
        run(order(fresh, ("lock",), ("none", "task_arithmetic")))
    assert len(list((fresh / "field" / "cells").rglob("*.json"))) == 2


def test_the_page_names_an_artefact_for_every_figure(done):
    folder, _, _ = done
    out = folder / "docs"
    text = shown(folder, out, command="make field")
    keys = {path.stem[:8] for path in (folder / "field" / "cells").rglob("*.json")}
    # Every "0.97 (0.93 to 0.99)" on the page, but for accuracies, stands beside a cell's key.
    for line in text.splitlines():
        for figure in re.finditer(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)", line):
            beside = re.findall(r"`([0-9a-f]{8})`", line[figure.end() :])
            assert beside and beside[0] in keys, line
    assert "nothing on this page is typed by hand" in text and "`make field`" in text
    assert "MergeBarrier-style ‡" in text and "refused by merge tools" in text
    many = text.partition("### Merges of 3 models")[2].partition("###")[0]
    assert re.search(r"\| MergeBarrier-style ‡ \| refused by merge tools \| (≥ )?0", many)
    assert "made up" in text
    assert re.search(r"\| pair \| full alignment \| \d+ \| \d+\.\d \| \d+\.\d \| \d+\.\d \|", text)
    assert re.search(r"\| all \| +\| \d+ \|", text) and "such minutes before" in text
    sentences = text.partition("### In three sentences\n\n")[2].splitlines()[0]
    assert re.search(r"stopped by .*\. After .*\. .*costs", sentences)
    for name in ("results-tiny.svg", "results-tiny-price.svg"):
        assert f"({name})" in text and (out / name).stat().st_size < 300_000
    assert "≥ " in text.split("### In three sentences")[1]  # most methods were left out here


def test_the_page_is_made_from_the_kept_cells_alone(done, tmp_path):
    text = shown(done[0], tmp_path / "one")
    (tmp_path / "two").mkdir()
    (file,) = (tmp_path / "one").glob("*.gz")
    (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    assert page.write(tmp_path / "two", suites=("tiny",)).read_text() == text
    assert file.stat().st_size < 20_000


def test_a_part_without_kept_cells_stays_on_the_page(done, tmp_path):
    before = shown(done[0], tmp_path)
    (part,) = re.findall(r"<!-- suite tiny: begin.*tiny: end -->", before, re.DOTALL)
    kept.path_of(tmp_path, "tiny").unlink()
    text = page.write(tmp_path, suites=("moss", "tiny")).read_text()
    assert part in text and "older than such files: tiny." in text
    assert text.endswith("## Suites left out\n\n- moss: has not been run.\n")
    (tmp_path / page.FILE).write_text(before.replace("a tiny Llama", "an older Llama"))
    assert shown(done[0], tmp_path) == before


def test_cells_are_kept_whole_and_the_same_cells_are_the_same_bytes(done, tmp_path):
    known = kept.in_cache(done[0], "tiny", False)
    path = kept.path_of(tmp_path, "tiny")
    kept.merge(path, known)
    first = path.read_bytes()
    assert kept.read(path).cells == known.cells
    kept.merge(path, known)
    assert path.read_bytes() == first
    path.unlink()
    places = sorted(known.cells, reverse=True)
    kept.merge(path, kept.Kept(known.index, {where: known.cells[where] for where in places}))
    assert path.read_bytes() == first


def test_new_cells_join_the_kept_ones_and_those_of_other_models_do_not(done, tmp_path):
    known = kept.in_cache(done[0], "tiny", False)
    path = kept.path_of(tmp_path, "tiny")
    lock = {where: cell if "/lock/" in where else None for where, cell in known.cells.items()}
    kept.merge(path, kept.Kept(known.index, lock))
    assert 0 < Results(kept.read(path)).counts[0] < Results(known).counts[0]
    rest = {where: None if "/lock/" in where else cell for where, cell in known.cells.items()}
    kept.merge(path, kept.Kept(known.index, rest))
    assert kept.read(path).cells == known.cells
    before = path.read_bytes()
    with pytest.raises(InputError, match="another base,"):
        kept.merge(path, kept.Kept({**known.index, "base": "0"}, known.cells))
    assert path.read_bytes() == before


def test_cells_that_could_not_join_the_kept_ones_are_not_measured(fresh, done):
    known = kept.in_cache(done[0], "tiny", False)
    path = kept.path_of(fresh / "out", "tiny")
    kept.merge(path, kept.Kept({**known.index, "tasks": {}}, known.cells))
    before = path.read_bytes()
    outcome = run(order(fresh, ("lock",), ("none", "task_arithmetic"), out=fresh / "out"))
    assert "holds cells of another task" in outcome.refused["tiny"]
    assert outcome.measured == 0 and path.read_bytes() == before
    assert not (fresh / "field").exists()  # nothing was protected either


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b"no", lambda b: b[:40] + b"x" * 9])
def test_a_damaged_file_of_cells_is_named(done, tmp_path, spoil):
    path = kept.path_of(tmp_path, "tiny")
    kept.merge(path, kept.in_cache(done[0], "tiny", False))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match="results-tiny"):
        kept.read(path)


def test_a_stopped_run_has_kept_what_it_measured(fresh, monkeypatch):
    stop_at_the_third(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(order(fresh, ("lock",), ("none", "task_arithmetic"), out=fresh / "out"))
    assert Results(kept.read(kept.path_of(fresh / "out", "tiny"))).counts[0] == 2


def test_cells_measured_again_agree_and_changed_ones_do_not(done, tmp_path):
    known = kept.in_cache(done[0], "tiny", False)
    path = kept.path_of(tmp_path, "tiny")
    places = ["pair/none/0/controls/", "pair/lock/0/align/task_arithmetic"]
    places.append("pair/mergebarrier/0/none/task_arithmetic")  # which fails
    few = kept.Kept(known.index, {where: known.cells[where] for where in places})
    kept.merge(path, few)
    found = check.check([suite()], tmp_path, done[0], 9)
    assert {one.place for one in found} == set(places)
    assert all(one.agrees for one in found)
    assert "0 of 90 answers of living differ" in found[0].words
    (drawn,) = check.check([suite()], tmp_path, done[0], 1, seed=3)
    assert [drawn] == check.check([suite()], tmp_path, done[0], 1, seed=3)
    cell = known.cells[places[1]]
    flipped = {name: marks.translate({48: 49, 49: 48}) for name, marks in cell["marks"].items()}
    path.unlink()
    kept.merge(path, kept.Kept(known.index, {**few.cells, places[1]: {**cell, "marks": flipped}}))
    wrong = [one for one in check.check([suite()], tmp_path, done[0], 9) if not one.agrees]
    assert [one.place for one in wrong] == [places[1]] and "90 of 90" in wrong[0].words
    with pytest.raises(InputError, match="keeps no cells of quick runs of tiny"):
        check.check([suite()], tmp_path, done[0], 9, quick=True)


def test_few_other_answers_agree_and_another_cell_does_not():
    inputs = dict.fromkeys(("base", "tasks", "texts", "attack", "method", "code"), 1)
    inputs |= {"experts": [1], "released": 1}
    cell = {"inputs": inputs, "reason": "", "marks": {"a": "1" * 200}}

    def other(**changes):
        return check.compare(cell, {**cell, **changes})

    assert other(marks={"a": "0" * 4 + "1" * 196})[0]
    assert not other(marks={"a": "0" * 5 + "1" * 195})[0]
    assert not other(reason="it broke")[0]
    agrees, words = other(inputs={**inputs, "experts": [2]})
    assert agrees and "experts were made anew here" in words
    agrees, words = other(inputs={**inputs, "texts": 2})
    assert not agrees and "texts changed" in words


def test_the_readme_shows_one_row_for_each_defence_and_what_it_means(done):
    shown(done[0], done[0] / "docs")
    text = page.excerpt(done[0] / "docs", "tiny", "docs")
    assert text.startswith("![") and "](docs/results-tiny.svg)" in text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    assert rows["no defence"].endswith("| merges well |")
    assert "refused by merge tools, falls to alignment" in rows["MergeBarrier-style ‡"]
    with pytest.raises(InputError, match="results-moss"):
        page.excerpt(done[0] / "docs", "moss", "docs")


def test_sentences_on_part_of_the_grid_say_so(done):
    found = results(done[0])
    measured, planned = found.counts
    assert answer(found)[0].startswith(f"So far, with {measured} of {planned} cells measured, an ")


def test_the_control_of_trained_defences_is_shown_and_counts_for_none(done):
    folder, _, _ = done
    document = index.read(folder, "tiny", False)
    document["defended"] = {
        "none/0": document["defended"]["none/0"],
        "retrained/0": {"refused": ""},
    }
    of_lock = {place: key for place, key in document["cells"].items() if "/lock/" in place}
    document["cells"] |= {at.replace("/lock/", "/retrained/"): key for at, key in of_lock.items()}
    found = of(document, folder)
    (control,) = chosen_defences(("retrained",))
    assert control in found.defences and found.best(control, ("align",)).value > 0.5
    assert not any("trained again" in sentence for sentence in answer(found))
    assert conclusion(found, control) == "is the control of those that train"
    assert not any(row.control for row in chosen_defences() if row is not control)


def test_a_failed_control_stands_before_the_sentences(done):
    found = results(done[0])
    assert not answer(found)[0].startswith("(A positive control failed")
    cell = found.singles("pair")
    cell["controls"][0]["passed"] = False
    assert answer(found)[0].startswith("(A positive control failed")
    assert cell["controls"][0]["title"] in answer(found)[0]


def test_what_is_missing_makes_figures_lower_bounds(done):
    folder, _, _ = done
    document = index.read(folder, "tiny", False)
    (lock,) = chosen_defences(("lock",))
    assert of(document, folder).best(lock, ("align",)).partial
    document["cells"] = {
        where: key
        for where, key in document["cells"].items()
        if where.rpartition("/")[2] in ("", "task_arithmetic", "emr")
    }
    assert not of(document, folder).best(lock, ("align",)).partial


def test_training_time_defences_run_with_several_seeds(fresh):
    pytest.importorskip("accelerate")
    run(order(fresh, ("trap2",), ("none", "task_arithmetic"), seeds=2))
    found = results(fresh)
    figure = found.best(chosen_defences(("trap2",))[0], ("none",))
    assert set(figure.seeds) == {0, 1} and len(set(figure.keys)) == 2
    assert figure.value == pytest.approx(sum(figure.seeds.values()) / 2)


def test_an_expert_of_a_private_base_is_a_row_and_its_base_is_made_once(fresh, monkeypatch):
    growth = Growth(block_steps=1, steps=2, disturbance=0.0, stops=1)
    monkeypatch.setitem(EFFORTS, "low", growth)
    monkeypatch.setattr(relocate, "BOUND", 100.0)  # so few steps lose everything
    # Whatever a task asks is left out.
    asked = [item.text for item in living().test[:50]]
    lines = [f"w{n % 17} w{n // 17 % 17} w{n // 289}" for n in range(2500)]
    monkeypatch.setattr(defended, "lines", lambda cache: [*asked, *lines])
    given = []
    made = defended.relocate
    monkeypatch.setattr(defended, "relocate", lambda base, out, texts, *rest, **more: (
        given.append(texts), made(base, out, texts, *rest, **more)))  # fmt: skip
    few = ("none", "task_arithmetic")
    outcome = run(order(fresh, ("private-low",), few))
    assert not outcome.refused
    (row,) = chosen_defences(("private-low",))
    figure = results(fresh).best(row, ("none",))
    told = [path.read_text() for path in fresh.glob("field/models/tiny-private-low-*/about.json")]
    assert figure is not None, told
    (own,) = fresh.glob("field/models/tiny-private-base-*/model")
    record = json.loads((own / "relocation.json").read_text())
    (child,) = fresh.glob("field/models/tiny-private-low-*/model")
    about = json.loads((child.parent / "about.json").read_text())
    assert about["seconds"] > record["seconds"]
    assert not (child / "relocation.json").exists()
    base, trained = weights_of(own), weights_of(child)
    public = weights_of(Path(suite().base()))
    name = "model.layers.0.mlp.up_proj.weight"
    near, far = (np.linalg.norm(trained[name] - one[name]) for one in (base, public))
    assert near < 0.5 * far
    shutil.rmtree(child.parent)
    run(order(fresh, ("private-low",), few))
    assert len(given) == 1 and not set(given[0]) & set(asked)


def test_a_local_ray_cluster_measures_the_same(done, fresh):
    ray = pytest.importorskip("ray")
    variables = {"PYTHONPATH": str(Path(__file__).parents[3])}
    ray.init(num_cpus=2, runtime_env={"env_vars": variables}, log_to_driver=False)
    try:
        outcome = run(order(fresh, ("lock",), ("none", "emr"), workers="ray"))
    finally:
        ray.shutdown()
    assert outcome.measured > 3 and not outcome.refused
    here, there = results(done[0]), results(fresh)
    assert there.counts[0] == outcome.measured
    for where, key in index.read(fresh, "tiny", False)["cells"].items():
        if key and (found := artefact.read(fresh, key)) is not None:
            assert here.kept.cells[where]["key"] == key
            assert found["marks"] == artefact.read(done[0], key)["marks"], where


def test_a_suite_whose_package_changed_is_left_out_and_the_others_go_on(fresh):
    def changed(cache):
        raise DownloadError("words.txt hashes to 12, not to the known 34: the package changed")

    broken = Suite(
        name="broken",
        title="broken",
        base=changed,
        tasks=(TaskRecipe("living", living, suite().tasks[0].recipe),) * 2,
        pair=("living", "living"),
        crowd=("living", "living"),
        disk=0.1,
        memory=0.1,
    )
    outcome = run(order(fresh, ("none",), ("none", "task_arithmetic"), suites=[broken, suite()]))
    assert "hashes to 12, not to the known 34" in outcome.refused["broken"]
    assert outcome.measured > 0
    text = shown(fresh, fresh / "out", refused=outcome.refused, suites=("broken", "tiny"))
    assert "hashes to 12" in text and "a tiny Llama" in text


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_too_little_of_the_machine_is_refused_before_anything_starts(what, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError

    from dataclasses import replace

    monkeypatch.setattr(driver, "_train", never)
    greedy = replace(suite(), **{what: 1e9})
    outcome = run(order(tmp_path, suites=[greedy]))
    assert what in outcome.refused["tiny"] and "1000000000.0 GB" in outcome.refused["tiny"]


def test_what_is_made_already_is_not_asked_for_twice(tmp_path):
    folder = tmp_path / "field" / "models" / "tiny-lock-0"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(bytes(1_000_000))
    assert needs.held(suite(), tmp_path) == pytest.approx(1e-3)


def test_a_refused_defence_stays_with_its_reason(fresh, monkeypatch):
    def refuse(*_, **__):
        raise InputError("this model is not for locking")

    monkeypatch.setattr("unmergeable.bench.field.defended.protect", refuse)
    outcome = run(order(fresh, ("lock",), ("none", "task_arithmetic")))
    assert not outcome.refused
    text = shown(fresh, fresh / "out")
    assert "this model is not for locking" in text
    document = json.loads(index.path_of(fresh, "tiny", False).read_text())
    assert document["defended"]["lock/0"]["refused"]


def test_marks_survive_packing():
    from unmergeable.evaluation.scoring import Score

    for marks in ((1.0, 0.0, 0.0, 1.0), (1.0, 51 / 255, 0.0)):
        packed = artefact.pack(Score(marks))
        assert artefact.unpack(packed).marks == marks
        assert kept.from_bits(kept.to_bits(packed)) == packed


def test_indexes_of_another_code_are_not_read(tmp_path):
    store.write_json(index.path_of(tmp_path, "tiny", False), {"code": artefact.CODE - 1})
    assert index.read(tmp_path, "tiny", False) is None
