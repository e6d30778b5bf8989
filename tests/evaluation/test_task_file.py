"""The YAML file: what it gives, and what it says when it is wrong."""

import json

import pytest

from unmergeable.errors import InputError
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task_file import read_tasks

GOOD = """\
tasks:
  - name: mine
    of: protected
    kind: words
    template: "{text} is :"
    words: [animal, plant]
    test: mine.jsonl
  - name: theirs
    title: Theirs
    of: peer
    kind: words
    template: "is {text} :"
    words: [animal, plant]
    test: mine.jsonl
    validation: mine.jsonl
    train: mine.jsonl
texts:
  generic: some.txt
  in-domain: mine.jsonl
"""
ROWS = [{"text": f"text {i}", "label": i % 2 if i < 6 else ["animal", "plant"][i % 2]}
        for i in range(10)]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    (tmp_path / "some.txt").write_text("one\n\n two \n")
    (tmp_path / "tasks.yaml").write_text(GOOD)
    return tmp_path


def test_a_good_file(folder):
    found = read_tasks(folder / "tasks.yaml")
    assert found.owners == (0, 1)
    mine, theirs = found.tasks
    assert isinstance(mine, WordTask) and mine.title == "mine" and theirs.title == "Theirs"
    # without a validation file, every second item is for choosing and the others for reporting
    assert [i.text for i in mine.validation] == [f"text {i}" for i in range(0, 10, 2)]
    assert [i.text for i in mine.test] == [f"text {i}" for i in range(1, 10, 2)]
    assert [i.label for i in mine.test] == [1] * 5 and mine.train == ()
    assert len(theirs.train) == len(theirs.test) == 10
    assert found.texts["generic"] == ("one", "two") and len(found.texts["in-domain"]) == 10


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sign", "\u2028\u2029\x85\x0b\x0c\x1c")
def test_a_line_ends_at_a_newline_alone(sign, end, folder):
    rows = [{**row, "text": f"a{sign}b {i}"} for i, row in enumerate(ROWS)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "mine.jsonl").write_bytes((end.join(lines) + end).encode())
    (folder / "some.txt").write_bytes(f"one{sign}more{end}{end}two{end}".encode())
    found = read_tasks(folder / "tasks.yaml")
    assert [item.text for item in found.tasks[1].train] == [row["text"] for row in rows]
    assert found.texts["in-domain"] == tuple(row["text"] for row in rows)
    assert found.texts["generic"] == (f"one{sign}more", "two")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    kind: words",
            "    kind: poems",
            r"tasks.yaml, line 2: task 'mine': 'kind' is 'poems'",
        ),
        ("of: peer", "of: me", "line 8: 'of' is 'me'"),
        ("of: peer", "of: protected", "one 'of: peer'"),
        ("name: theirs", "name: mine", "two tasks have one name"),
        (
            '    template: "{text} is :"\n',
            "",
            "line 2: task 'mine': the field 'template' is missing",
        ),
        ('template: "{text} is :"', "template:", "line 2: task 'mine': .*'template' is empty"),
        ('template: "{text} is :"', 'template: "is"', "line 2: .*must hold"),
        ("words: [animal, plant]", "words: [animal]", "not one of the task.s"),
        ("    title: Theirs", "    titel: Theirs", "line 8: .*'titel' is unknown"),
        ("test: mine.jsonl", "test: gone.jsonl", "gone.jsonl cannot be read"),
        ("generic: some.txt", "other: some.txt", "'other' is unknown"),
        ("tasks:\n", "jobs:\n", "'tasks' is missing"),
        ("tasks:\n", "tasks: [\n", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(folder, old, new, message):
    (folder / "tasks.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_tasks(folder / "tasks.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"mine.jsonl, line 3: not JSON"),
        ("[1]", "line 3: .*not an object"),
        ('{"text": "", "label": 1}', "line 3: the field 'text' is empty"),
        ('{"text": "a"}', "line 3: the field 'label' is missing"),
        ('{"text": "a", "label": "stone"}', "line 3: the label 'stone' is not one"),
        ('{"text": "a", "label": true}', "line 3: the label is True"),
        ('{"text": "a", "label": 7}', "label 7"),
    ],
)
def test_a_wrong_item_is_refused_with_its_line(folder, line, message):
    good = [json.dumps(row) for row in ROWS[:2]]
    (folder / "mine.jsonl").write_text("\n".join([*good, line, *good]))
    with pytest.raises(InputError, match=message):
        read_tasks(folder / "tasks.yaml")


def test_empty_files_are_refused(folder):
    (folder / "mine.jsonl").write_text("")
    with pytest.raises(InputError, match="has no items"):
        read_tasks(folder / "tasks.yaml")


def test_a_folder_of_images_with_one_folder_per_class(folder):
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(3):
            image.new("RGB", (8, 8)).save(folder / "pets" / name / f"{number}.png")
    text = GOOD + "  near: pets\n"
    entry = "  - {name: pets, of: peer 2, kind: image, test: pets}\n"
    (folder / "tasks.yaml").write_text(text.replace("texts:", entry + "texts:"))
    found = read_tasks(folder / "tasks.yaml")
    assert found.owners == (0, 1, 2) and len(found.texts["near"]) == 6
    pets = found.tasks[2]
    assert sorted(i.label for i in pets.validation + pets.test) == [0, 0, 0, 1, 1, 1]
