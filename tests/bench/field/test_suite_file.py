"""A suite file of one's own: from the command line to the page, and what is refused first."""

import json
import pickle
import random
import re
import shutil

import pytest
import torch

from tests.bench.field import own
from tests.evaluation.test_task_file_mutants import WILD
from tests.training.small import base
from unmergeable.bench.field import kept
from unmergeable.bench.field import run as driver
from unmergeable.bench.field.run import Order, chosen_suites, run
from unmergeable.bench.field.suite_file import read_suite
from unmergeable.cli import main
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect
from unmergeable.training.experts import HeadRecipe, Recipe

RECIPE = {"steps": 40, "batch": 16, "rate": 3e-3}


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")  # or the test would be restarted
    torch.set_num_threads(1)


def made_from_data(content):
    """The peer's expert is trained, with a head, instead of given."""
    task = content["tasks"][1]
    del task["expert"], task["head"]
    task["recipe"] = RECIPE


def test_from_a_file_to_a_page(tmp_path, capsys):
    pytest.importorskip("mergekit")
    content = own.document()
    made_from_data(content)
    path = own.write(tmp_path, content)
    command = ["bench", "field", "--suite", str(path), "--quick", "--json"]
    command += ["--only", "none", "--only", "align", "--only", "task_arithmetic"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["measured"] == 7 and not json.loads(told.out)["refused"]
    assert "my BERT: living: base" in told.err and "should hold" not in told.err
    found = kept.read(tmp_path / "out" / "results-mine-quick.jsonl.gz")
    assert {cell and where.split("/")[1] for where, cell in found.cells.items()} == {
        "none",
        "lock",
        None,
    }
    text = (tmp_path / "out" / "results.md").read_text()
    assert "## Mine: my BERT (a quick run)" in text and "| lock |" in text
    assert "Suites left out" not in text  # nobody asked for ours
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 0


def test_what_a_file_gives(tmp_path):
    content = own.document()
    made_from_data(content)
    content["tasks"].reverse()  # the owner is first, wherever its task stands
    suite = read_suite(own.write(tmp_path, content))
    assert suite.pair == suite.crowd == ("living", "stones")
    assert suite.defences == ("lock",) and suite.title == "my BERT"
    assert suite.base(None) == tmp_path / "base"
    living, stones = suite.tasks
    assert living.trained(tmp_path / "base") == (living.task(), tmp_path / "living")
    assert living.task().head.path == tmp_path / "living-head.safetensors"
    assert living.recipe == Recipe()
    assert stones.recipe == HeadRecipe(**RECIPE, pooling="cls") and stones.expert is None
    sent = pickle.dumps(suite)
    assert pickle.loads(sent) == pickle.loads(sent) == suite
    del content["defences"], content["title"], content["name"]
    task(1, recipe=RECIPE)(content)  # for the rows that train
    suite = read_suite(own.write(tmp_path, content))
    assert suite.defences == () and suite.title == "base" and suite.name == "mine"


def top(**changes):
    return lambda content: content.update(changes)


def task(number, **changes):
    return lambda content: content["tasks"][number].update(changes)


def without(number, field):
    return lambda content: content["tasks"][number].pop(field)


WRONG = {
    "no base": (lambda c: c.pop("base"), "the field 'base' is missing"),
    "a base that is nowhere": (top(base="moss"), "line 1: the base: .*moss is no folder"),
    "a base that is no name": (top(base=3, title="x"), "'base' is 3: give a folder or a Hub id"),
    "a title of two lines": (top(title="my\nBERT"), r"'title' is 'my\\nBERT': give one line"),
    "a field near one": (top(defenses=["lock"]), r"'defenses' is unknown \(is it 'defences'\?\)"),
    "a needed field near one": (
        lambda c: c.update(taks=c.pop("tasks")),
        r"'tasks' is missing \(is it 'taks'\?\)",
    ),
    "an unknown row": (top(defences=["locks"]), "'defences': no row 'locks' in the field"),
    "rows that are no list": (top(defences="lock"), "'defences' must be a list of rows"),
    "one of our names": (top(name="encoder"), "the suite is called 'encoder'"),
    "the name of a quick run": (top(name="my-quick"), "the suite is called 'my-quick'"),
    "a name that is a path": (top(name="../mine"), "the suite is called '../mine'"),
    "a missing task": (lambda c: c["tasks"].pop(), "there must be a task 'of: protected' and one"),
    "two tasks of one expert": (task(1, of="protected"), "there must be a task"),
    "a peer left out": (task(1, of="peer 2"), "each expert has one task"),
    "no expert": (without(0, "expert"), "line 7: task 'living': say where its 'expert' is"),
    "an expert that is nowhere": (task(0, expert="moss"), "task 'living': .*moss is no folder"),
    "an expert that is no model": (task(0, expert="cache"), "task 'living': .*no config.json"),
    "no file of items": (task(1, test="moss.jsonl"), "moss.jsonl cannot be read"),
    "a misspelt field": (task(1, pooing="cls"), r"'pooing' is unknown \(is it 'pooling'\?\)"),
    "an unknown pooling": (
        lambda c: (made_from_data(c), task(1, pooling="max")(c)),
        "task 'stones': 'pooling' is 'max'; there is mean, cls",
    ),
    "a task that is a path": (task(0, name="a/b"), "task 'a/b': give a name of letters"),
    "nothing to train on": (
        lambda c: (made_from_data(c), c["tasks"][1].pop("train")),
        "task 'stones': its expert is to be made from its 'train' items, and it has none",
    ),
    "rows that train as nobody said": (
        top(defences=["lock", "trap2"]),
        "task 'living': trap2 train an expert in place of the one that is given: say in its 'rec",
    ),
    "a recipe with a slip": (
        lambda c: (made_from_data(c), task(1, recipe={"stps": 3})(c)),
        r"task 'stones': 'recipe': the field 'stps' is unknown \(is it 'steps'\?\)",
    ),
    "a recipe of no steps": (
        lambda c: (made_from_data(c), task(1, recipe={"steps": 0})(c)),
        "line .*: task 'stones': steps is 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_its_line(case, tmp_path, capsys):
    change, message = WRONG[case]
    content = own.document()
    change(content)
    path = own.write(tmp_path, content)
    with pytest.raises(UnmergeableError, match=message):
        read_suite(path)
    out = tmp_path / "out"
    assert main(["bench", "field", "--suite", str(path), "--out", str(out)]) == 2
    place = "moss.jsonl" if case == "no file of items" else "mine.yaml, line "
    assert place in capsys.readouterr().err and not out.exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"moss\.yaml"):
        chosen_suites([str(tmp_path / "moss.yaml")])
    with pytest.raises(InputError, match=r"no suite 'moss'; there is encoder, .*in \.yaml"):
        chosen_suites(["moss"])


def test_two_suites_of_one_name_are_refused(tmp_path):
    path = own.write(tmp_path, own.document())
    other = path.with_name("other.yml")
    shutil.copyfile(path, other)
    assert [suite.name for suite in chosen_suites(["encoder", str(path)])] == ["encoder", "mine"]
    with pytest.raises(InputError, match="two suites are called 'mine'"):
        chosen_suites([str(path), str(other)])


def test_mutants_are_read_or_refused_in_one_line(tmp_path):
    content = own.document()
    made_from_data(content)
    path = own.write(tmp_path, content)
    lines, draw = path.read_text().splitlines(), random.Random(0)
    for _ in range(200):
        found, at = list(lines), draw.randrange(len(lines))
        if draw.randrange(3):
            found[at] = f"{found[at].partition(':')[0]}: {draw.choice(WILD)}"
        else:
            found[at : at + draw.randrange(3)] = draw.choices(lines, k=draw.randrange(3))
        path.write_bytes("\n".join(found).encode("utf-8", "replace"))
        try:
            hash(read_suite(path))
        except UnmergeableError as error:
            assert str(error).isprintable() and len(str(error)) < 1000


def test_models_by_hub_id(tmp_path, monkeypatch):
    """A folder of that name where the command is run is not the one that is meant."""
    asked = []

    def download(name, **_):
        asked.append(name)
        return str(own.given() / name.partition("/")[2])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    content = own.document()
    content["base"] = "us/base"
    task(1, expert="them/stones")(content)
    suite = read_suite(own.write(tmp_path, content))
    assert asked == ["us/base", "them/stones"]
    assert suite.base(None) == own.given() / "base"
    assert suite["stones"].expert == own.given() / "stones"
    away = tmp_path / "away"
    shutil.copytree(own.given() / "base", away / "us" / "base")
    monkeypatch.chdir(away)
    assert read_suite(tmp_path / "mine.yaml").base(None) == own.given() / "base"


@pytest.mark.parametrize("kind", ["llama", "dinov2"])
def test_an_expert_of_another_base_is_refused(kind, tmp_path):
    content = own.document()
    task(1, expert=str(base(kind)))(content)
    with pytest.raises(InputError, match="task 'stones': its expert is none of this base"):
        read_suite(own.write(tmp_path, content))


def test_a_protected_expert_is_refused(tmp_path):
    protect(own.given() / "living", tmp_path / "locked", Key(bytes(32)))
    content = own.document()
    task(0, expert="locked")(content)
    with pytest.raises(InputError, match="locked is protected already"):
        read_suite(own.write(tmp_path, content))


def ordered(path, cache):
    return Order(chosen_suites([str(path)]), (), cache, only=("none", "task_arithmetic"))


def never(*_, **__):
    raise AssertionError("something was protected, or merged")


@pytest.mark.parametrize("expert", ["base", "living"])
def test_a_task_that_its_expert_did_not_learn_stops_the_run_first(expert, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_suite", never)
    content = own.document()
    task(1, expert=expert)(content)
    outcome = run(ordered(own.write(tmp_path, content), tmp_path / "cache"))
    reason = outcome.refused["mine"]
    assert "every expert is better than the base on its own task" in reason
    assert re.search(r"stones: base \d+\.\d%, expert", reason)


def test_a_head_that_is_missing_stops_the_run_first(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_suite", never)
    content = own.document()
    without(1, "head")(content)
    outcome = run(ordered(own.write(tmp_path, content), tmp_path / "cache"))
    assert "BertModel has no classifier of its own: give task stones a" in outcome.refused["mine"]


def test_an_expert_that_does_both_tasks_is_told_of_first(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_suite", never)
    content = own.document()
    both = {**content["tasks"][0], "name": "again", "of": "peer"}
    content["tasks"][1:] = [both]
    told = []
    with pytest.raises(AssertionError, match="protected, or merged"):
        run(ordered(own.write(tmp_path, content), tmp_path / "cache"), told.append)
    assert any("no expert alone is worth" in line and "V = 1.00" in line for line in told)


def test_too_large_a_model_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_train", never)
    monkeypatch.setattr("unmergeable.bench.field.resource_check.available_memory", lambda: 10)
    outcome = run(ordered(own.write(tmp_path, own.document()), tmp_path / "cache"))
    assert "needs 0.8 GB of memory" in outcome.refused["mine"]


def test_without_training_items_what_needs_them_is_shown_with_its_reason(tmp_path):
    pytest.importorskip("mergekit")
    content = own.document()
    content["defences"] = ["lock", "arf"]
    for number in (0, 1):
        without(number, "train")(content)
    only = ("none", "pull_back", "fine_tune", "task_arithmetic")
    given = ordered(own.write(tmp_path, content), tmp_path)
    outcome = run(Order(given.suites, (), tmp_path, only=only))
    assert not outcome.refused
    found = kept.in_cache(tmp_path, "mine", False)
    assert "train items" in found.index["defended"]["arf/0"]["refused"]
    reasons = {
        where.split("/")[3]: cell["reason"]
        for where, cell in found.cells.items()
        if cell and "/lock/" in where and where.endswith("/task_arithmetic")
    }
    assert not reasons["none"]
    assert reasons["pull_back"] == "there are no in-domain texts: give the tasks 'train' items."
    assert reasons["fine_tune"].startswith("there are no training items for every peer")
