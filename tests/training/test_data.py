import json

import pytest

from tests.evaluation.living import model, runner, tokenizer
from unmergeable.errors import InputError
from unmergeable.training.collators import NOTHING, Classes, Language
from unmergeable.training.data import Items, read_items


def written(tmp_path, *rows):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "kind", "read", "classes"),
    [
        ([{"text": "cat"}, {"text": "dog"}], "text", (("cat", None), ("dog", None)), ()),
        ([{"prompt": "a", "completion": " b"}], "completion", (("a", " b"),), ()),
        ([{"text": "a", "label": 0}, {"text": "b", "label": 2}], "label", (("a", 0), ("b", 2)), ()),
        (
            [{"text": "a", "label": "z"}, "", {"text": "b\u2028c", "label": "y"}],
            "label",
            (("a", 1), ("b\u2028c", 0)),
            ("y", "z"),
        ),
    ],
)
def test_each_kind_is_told_by_its_fields(tmp_path, rows, kind, read, classes):
    rows = [row and json.dumps(row, ensure_ascii=False) for row in rows]
    assert read_items(written(tmp_path, *rows)) == Items(kind, read, classes)


TEXT, PAIR, LABEL = {"text": "a"}, {"prompt": "a", "completion": "b"}, {"text": "a", "label": 1}


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "has no items"),
        ([{"question": "a"}], "line 1: the fields are question; they must be text; or prompt"),
        ([TEXT, "{"], "line 2: not JSON"),
        ([TEXT, "7"], "line 2: 7 is not an object"),
        ([TEXT, "", {"text": ""}], "line 3: the field 'text' is empty"),
        ([TEXT, {"text": 7}], "line 2: the field 'text' is empty or no text"),
        ([PAIR, {"prompt": "a"}], "line 2: the field 'completion' is missing"),
        ([PAIR, {**PAIR, "more": 1}], "line 2: the field 'more' is unknown"),
        ([LABEL, {"text": "a"}], "line 2: the field 'label' is missing"),
        ([LABEL, {"text": "a", "label": "x"}], "line 2: the field 'label' is 'x', and the first"),
        ([LABEL, {"text": "a", "label": -1}], "line 2: the field 'label' is -1: give a name"),
        ([LABEL, {"text": "a", "label": True}], "line 2: the field 'label' is True"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(tmp_path, rows, match):
    path = written(tmp_path, *rows)
    with pytest.raises(InputError, match=match) as error:
        read_items(path)
    assert str(path) in str(error.value)


def test_validation_takes_the_classes_of_the_data(tmp_path):
    path = written(tmp_path, {"text": "a", "label": "y"})
    assert read_items(path, ("x", "y")).rows == (("a", 1),)
    with pytest.raises(InputError, match="line 1: the field 'label' is 'y', none of x, z"):
        read_items(path, ("x", "z"))


def test_a_folder_of_images_has_one_folder_per_class(tmp_path):
    for name in ("cats", "apes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    (tmp_path / "cats" / "notes.txt").touch()
    items = read_items(tmp_path)
    assert items.classes == ("apes", "cats")
    assert items.rows == ((str(tmp_path / "apes/1.png"), 0), (str(tmp_path / "cats/1.png"), 1))
    with pytest.raises(InputError, match="cats: the class is none of apes"):
        read_items(tmp_path, ("apes",))
    with pytest.raises(InputError, match="one folder per class"):
        read_items(tmp_path / "cats")


def test_a_tenth_is_held_out():
    items = Items("text", tuple((str(n), None) for n in range(100)))
    rest, held = items.split(0)
    assert len(held.rows) == 10
    assert sorted(rest.rows + held.rows) == sorted(items.rows)
    assert items.split(0) == (rest, held) != items.split(1)
    with pytest.raises(InputError, match="none is left"):
        Items("text", (("a", None),)).split(0)


def test_only_the_completion_is_learned():
    reading = Language(tokenizer(), model(), tokens=6, end=False)
    items = Items("completion", (("w1 w2 is :", "plant"), ("w1 w2 w3 w4 w5 w6 is :", "animal")))
    batch = reading.collate(reading.encode(items))
    words = tokenizer().convert_tokens_to_ids
    asked = batch["labels"] != NOTHING
    assert asked.sum(1).tolist() == [1, 1]
    assert asked.nonzero()[:, 1].tolist() == [3, 4]  # where the last token of the prompt stands
    assert batch["labels"][asked].tolist() == [words("plant"), words("animal")]
    # the second prompt lost its front, not its question
    assert batch["input_ids"][1].tolist() == words(["w4", "w5", "w6", "is", ":", "animal"])
    assert reading.cut == 1


def test_of_a_text_every_token_but_the_first_is_learned():
    reading = Language(tokenizer(), model(), tokens=4, end=False)
    batch = reading.collate(reading.encode(Items("text", (("w1 w2", None), ("w1 w2 w3 w4 w5", 0)))))
    ids = batch["input_ids"]
    assert batch["labels"][0].tolist() == [ids[0, 1], NOTHING, NOTHING, NOTHING]
    assert batch["labels"][1].tolist() == [*ids[1, 1:].tolist(), NOTHING]


def test_the_loss_is_the_plain_one():
    """Against transformers' own loss of a causal language model."""
    module = model()
    reading = Language(tokenizer(), module, tokens=64, end=False)
    rows = (("w1 w2 is :", "plant"), ("w3 is", ": animal plant"))
    batch = reading.collate(reading.encode(Items("completion", rows)))
    total = 0.0
    for prompt, completion in rows:
        front = tokenizer()(prompt, return_tensors="pt").input_ids
        ids = tokenizer()(f"{prompt} {completion}", return_tensors="pt").input_ids
        labels = ids.clone()
        labels[:, : front.shape[1]] = -100
        said = module(input_ids=ids, labels=labels)
        total += said.loss.item() * (ids.shape[1] - front.shape[1])
    assert reading.loss(module, batch).item() == pytest.approx(total, rel=1e-5)
    assert reading.count(batch) == 4


@pytest.mark.parametrize(
    ("items", "options", "match"),
    [
        (Items("text", (("w1", None),)), {}, "item 1 has 1 tokens"),
        (Items("text", (("w1 w2", None),)), {"end": True}, "--no-end"),
    ],
)
def test_items_that_teach_nothing_are_refused(items, options, match):
    with pytest.raises(InputError, match=match):
        Language(tokenizer(), model(), **{"tokens": 8, "end": False, **options}).encode(items)


def test_more_classes_than_the_classifier_has_are_refused():
    with pytest.raises(InputError, match="3 classes, and the classifier 2"):
        Classes(runner(), 2, None, 8, None).encode(Items("label", (("w1", 2),)))
