"""Tasks of lm-evaluation-harness, on a task of our own in a folder: nothing is fetched."""

import copy
import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.evaluation.living import TASK, items, model, tokenizer
from unmergeable.auditing.evaluator import Evaluator
from unmergeable.errors import InputError
from unmergeable.evaluation.harness import HarnessTask, _loaded, _loss, harness_task
from unmergeable.evaluation.scoring import WORST_LOSS, score
from unmergeable.evaluation.task_file import read_tasks
from unmergeable.merging.method import Merged
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.experts import Recipe, schedule

library = pytest.importorskip("lm_eval.tasks")

DEFINITION = """\
task: {name}
dataset_path: json
dataset_kwargs:
  cache_dir: {folder}/cache
  data_files:
    train: {folder}/items.jsonl
    test: {folder}/items.jsonl
output_type: {output}
test_split: test
fewshot_split: train
num_fewshot: {shots}
doc_to_text: "{{{{text}}}} is :"
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
CHOICES = 'doc_to_choice: ["animal", "plant"]'
COUNT = 40


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What is loaded is kept for the process, but not tests' folders; all else is slow to list."""
    _loaded.cache_clear()

    listed = library.TaskManager

    def manager(include_path=None, include_defaults=False):
        return listed(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(library, "TaskManager", manager)


def define(folder, name="living_things", shots=0, **changes):
    parts = {"output": "multiple_choice", "target": "label", "more": CHOICES, "metric": "acc"}
    rows = [{"text": i.text, "label": i.label, "word": ("animal", "plant")[i.label]}
            for i in items(COUNT, 1)]  # fmt: skip
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = DEFINITION.format(name=name, folder=folder, shots=shots, **{**parts, **changes})
    (folder / f"{name}.yaml").write_text(text)
    return folder


def runner(module=None):
    """The library wants to know where a text ends."""
    ended = copy.deepcopy(tokenizer())
    ended.eos_token = "<pad>"
    return ModelRunner(module or model(), ended)


@cache
def trained():
    """A model that knows the task a little."""
    found = runner(model(3))
    texts, labels = zip(*TASK.train, strict=True)
    recipe = Recipe(steps=25, batch=16)
    optimiser = torch.optim.AdamW(found.model.parameters(), lr=3e-3)
    for batch in TASK.batches(found, texts, labels, lambda n: schedule(n, recipe)):
        TASK.losses(TASK.logits(found.model, batch), batch).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return found


def test_it_scores_as_our_own_task_of_the_same_words_does(tmp_path, capsys):
    found = trained()
    task = harness_task("mine", "living_things", folder=define(tmp_path))
    assert isinstance(task, HarnessTask) and len(task.validation) == len(task.test) == COUNT // 2
    assert [item.label for item in task.test] == list(range(1, COUNT, 2))
    own = replace(TASK, test=items(COUNT, 1)[1::2])
    theirs, ours = score(found, task), score(found, own)
    # The library reads bfloat16 logits of the whole vocabulary, so the last digits differ.
    assert 0.6 < ours.accuracy < 1 or ours.accuracy == 1
    assert sum(a != b for a, b in zip(theirs.marks, ours.marks, strict=True)) <= 1
    assert theirs.loss == pytest.approx(ours.loss, abs=0.05)
    # A part of a split is scored as it is within the whole.
    capsys.readouterr()
    part = task.exam(found, task.test[5:9])()
    assert capsys.readouterr().err == ""  # no bars: an audit would show hundreds
    assert part.marks == theirs.marks[5:9] and task.exam(found, ())().marks == ()


def test_examples_before_a_question_do_not_hang_on_the_questions_before_it(tmp_path):
    found = trained()
    task = harness_task("mine", "with_examples", folder=define(tmp_path, "with_examples", shots=2))
    whole = score(found, task)
    parts = [task.exam(found, task.test[i : i + 10])() for i in (10, 0)]
    assert parts[1].losses + parts[0].losses == pytest.approx(whole.losses, abs=0.02)


def test_generated_answers_are_marked_by_exact_match(tmp_path):
    more = 'generation_kwargs: {max_gen_toks: 1, do_sample: false, until: ["<pad>"]}'
    folder = define(
        tmp_path, "said", output="generate_until", target="word", more=more, metric="exact_match"
    )
    task = harness_task("mine", "said", folder=folder, limit=10)
    assert task.metric == "exact_match" and len(task.test) == 5
    got = score(trained(), task)
    assert set(got.marks) <= {0.0, 1.0} and sum(got.marks) >= 3
    assert set(got.losses) == {0.0}


def test_the_hash_sees_items_and_definition_but_not_where_they_lie(tmp_path):
    hashes = []
    for name in ("one", "two", "three", "four"):
        _loaded.cache_clear()
        folder = tmp_path / name
        folder.mkdir()
        define(folder, shots=1 if name == "three" else 0)
        limit = 30 if name == "four" else None
        hashes.append(harness_task("mine", "living_things", folder=folder, limit=limit))
    first, *others = [task.content_hash for task in hashes]
    assert others[0] == first and len({first, *others}) == 3


def test_a_ruined_model_is_wrong_and_its_loss_stays_readable(tmp_path):
    found = runner(model(0))
    with torch.no_grad():
        found.model.model.norm.weight.fill_(math.nan)
    task = harness_task("mine", "living_things", folder=define(tmp_path), limit=8)
    got = score(found, task)
    assert set(got.marks) == {0.0} and set(got.losses) == {WORST_LOSS}


def test_an_evaluator_asks_it_once_per_model(tmp_path):
    found = trained()
    task = harness_task("mine", "living_things", folder=define(tmp_path), limit=20)
    state = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    state.pop("lm_head.weight")
    evaluator = Evaluator(found, tmp_path, [task, TASK], [0, 1], tmp_path / "cache", state)
    for _ in range(2):
        first = evaluator.scores({"a": 1}, lambda: Merged(state), "validation", 0, 6)
    rest = evaluator.scores({"a": 1}, lambda: Merged(state), "validation", 6)
    assert (evaluator.measured, evaluator.looked_up) == (2, 1)
    whole = score(found, task, "validation").marks
    assert first[0].marks + rest[0].marks == whole and rest[1].total == 0


def test_losses_of_likelihoods():
    sample = {"filtered_resps": [(-1.0, True), (-2.0, False)], "target": 1}
    assert _loss(sample) == pytest.approx(1 + math.log(1 + math.exp(-1)))
    assert _loss({"filtered_resps": [(-3.0, False)], "target": "oak"}) == 3
    assert _loss({"filtered_resps": ["oak"], "target": "oak"}) == 0
    assert _loss({"filtered_resps": [(-1.0, True), (-2.0, False)], "target": "oak"}) == 0


def test_texts_and_gradients_are_refused(tmp_path):
    task = harness_task("mine", "living_things", folder=define(tmp_path), limit=4)
    for call in (lambda: task.batches(runner(), ["cat"]), lambda: task.logits(None, None)):
        with pytest.raises(InputError, match="is asked by lm-evaluation-harness"):
            call()
    assert task.batches(runner(), []) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("harness: no_such_task", "cannot load the task 'no_such_task'"),
        ("harness: living_things\n    limit: 1", "the limit is 1: give 2 or more"),
        ("harness: living_things\n    limit: some", "'limit' is 'some'; give a whole number"),
        ("harness: living_things\n    harness_path: nowhere", "'nowhere', which is no folder"),
        ("harness: living_things\n    test: x.jsonl", "the field 'test' is unknown"),
        ("title: none", "the field 'harness' is missing"),
        ("harness: puzzling", "reports perplexity: choose one that reports acc or exact_match"),
        ("harness: both", "is not a single task but living_things, puzzling"),
    ],
)
def test_task_files_with_it(tmp_path, lines, message):
    define(tmp_path)
    define(
        tmp_path, "puzzling", output="loglikelihood", target="word", more="", metric="perplexity"
    )
    (tmp_path / "both.yaml").write_text("group: both\ntask: [living_things, puzzling]\n")
    entry = "  - name: {}\n    of: {}\n    kind: harness\n    "
    good = "harness: living_things\n    harness_path: .\n    limit: 12\n"
    where = "" if "harness_path" in lines or "limit" in lines else "\n    harness_path: ."
    path = tmp_path / "tasks.yaml"
    path.write_text(
        "tasks:\n" + entry.format("a", "protected") + good + entry.format("b", "peer") + good
    )
    assert [len(task.test) for task in read_tasks(path).tasks] == [6, 6]
    path.write_text(
        "tasks:\n" + entry.format("a", "protected") + good + entry.format("b", "peer")
        + f"{lines}{where}\n"
    )  # fmt: skip
    with pytest.raises(InputError, match=f"tasks.yaml, line .*{message}"):
        read_tasks(path)
