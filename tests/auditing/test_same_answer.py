"""The race and an exhaustive search choose merges that are worth the same, on ten tiny suites."""

from dataclasses import replace
from functools import cache

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from tests.auditing.scene import THEIRS, scene, stones  # noqa: E402
from tests.evaluation.living import TASK, items  # noqa: E402
from unmergeable.architectures.layout import Layout  # noqa: E402
from unmergeable.auditing import race  # noqa: E402
from unmergeable.auditing.candidates import Candidates, Model  # noqa: E402
from unmergeable.auditing.ensemble import QUICK, rows  # noqa: E402
from unmergeable.auditing.evaluator import Evaluator  # noqa: E402
from unmergeable.auditing.race import Reference  # noqa: E402
from unmergeable.auditing.search import LOOKS, search  # noqa: E402
from unmergeable.checkpoint.folder import open_folder  # noqa: E402
from unmergeable.evaluation.value import merge_value, strength  # noqa: E402
from unmergeable.merging.method import Merged  # noqa: E402
from unmergeable.models.model_runner import ModelRunner  # noqa: E402
from unmergeable.models.weights import Weights  # noqa: E402

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "tsv")


@cache
def suite():
    """The models, a runner, and each method's candidates, of which none is made twice."""
    torch.set_num_threads(1)
    folders = {name: open_folder(scene()[name]) for name in ("base", "original", "peer")}
    models = {}
    for name, folder in folders.items():
        weights = Weights.read(folder)
        models[name] = Model(weights.tensors, weights.digest)
    runner = ModelRunner.of(folders["base"].path)
    layout = Layout.of(folders["base"].config, folders["base"].shapes)
    made = Candidates(models["base"], [models["peer"]], layout, runner)
    every = {
        row.name: [replace(one, make=cache(one.make)) for one in made.all(row, models["original"])]
        for row in rows(QUICK)
        if row.name in METHODS
    }
    return folders, models, runner, every


def best(evaluator, reference, singles):
    """The best method's name, its merge's V on test items, and how often models were asked."""
    found = {}
    *_, every = suite()
    for name, candidates in every.items():
        chosen = search(candidates, evaluator, reference).candidate
        scores = evaluator.scores(chosen.about, chosen.make, "test")
        experts = [singles["original"][0], singles["peer"][1]]
        found[name] = merge_value(scores, singles["base"], experts).estimate
    return max(found.items(), key=lambda pair: strength(pair[1].value, None, pair[1].low))


@pytest.mark.parametrize("seed", range(10))
def test_the_best_method_is_within_the_exhaustive_ones_interval(seed, tmp_path, monkeypatch):
    folders, models, runner, every = suite()
    tasks = (
        replace(TASK, validation=items(64, 100 + seed), test=items(100, 200 + seed)),
        replace(THEIRS, validation=stones(64, 300 + seed), test=stones(100, 400 + seed)),
    )
    base = models["base"].state
    evaluator = Evaluator(runner, folders["base"].path, tasks, (0, 1), tmp_path, base)

    def alone(name, split):
        return evaluator.scores({"weights": name}, lambda: Merged(models[name].state), split)

    singles = {name: alone(name, "test") for name in models}
    on = {name: alone(name, "validation") for name in models}
    reference = Reference(on["base"], [on["original"][0], on["peer"][1]])
    answers, asked = {}, {}
    for way, error in (("exhaustive", 0.0), ("race", race.ERROR)):
        monkeypatch.setattr(race, "ERROR", error)
        before = evaluator.measured + evaluator.looked_up
        answers[way] = best(evaluator, reference, singles)
        asked[way] = evaluator.measured + evaluator.looked_up - before
    _, raced = answers["race"]
    _, whole = answers["exhaustive"]
    assert whole.value > 0.3  # there is something to find
    assert whole.low <= raced.value <= whole.high
    # both were run to the end: all candidates on all items, and fewer
    looks = len(LOOKS) + 1
    assert asked["exhaustive"] == sum(looks * len(each) + 1 for each in every.values())
    assert asked["race"] < asked["exhaustive"]
