"""Tasks of an encoder, from made-up raw data."""

import subprocess
from collections import Counter

import pytest

from unmergeable.bench.data import debian, encoder_tasks
from unmergeable.errors import DownloadError
from unmergeable.evaluation.splitting import Raw


def rows(classes, count):
    return [
        Raw(f"w{c}x{i} something", c, f"w{c}x{i}") for c in range(classes) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("builder", "reader", "classes"),
    [
        (encoder_tasks.nouns, "raw_glosses", 24),
        (encoder_tasks.uses, "raw_uses", 4),
        (encoder_tasks.typos, "raw_flaws", 2),
        (encoder_tasks.order, "raw_flaws", 2),
        (encoder_tasks.repeats, "raw_flaws", 2),
        (encoder_tasks.persons, "raw_persons", 4),
    ],
)
def test_tasks_are_balanced_and_without_a_head(monkeypatch, builder, reader, classes):
    asked = []
    monkeypatch.setattr(
        encoder_tasks, reader, lambda *args: asked.append(args) or rows(classes, 12)
    )
    task = builder("here", train=5, validation=2, test=4)
    for part, size in ((task.train, 5), (task.validation, 2), (task.test, 4)):
        assert Counter(item.label for item in part) == dict.fromkeys(range(classes), size)
    assert task.head is None and asked[0][-1] == "here"
    if reader == "raw_glosses":
        part, numbers, _ = asked[0]
        assert part in builder.__name__ and len(numbers) == classes


def paragraph(package, section, text, source=None):
    more = f"Source: {source}\n" if source else ""
    return (
        f"Package: {package}\n{more}Section: {section}\nDescription: {text}\n"
        " longer text\nTag: role::program\n"
    )


def test_an_index_is_read_by_its_fields():
    index = "\n".join(
        [
            paragraph("a", "games", "a game: of cards"),
            paragraph("b-data", "non-free/science", "data of b", "b (1.0-2)"),
            paragraph("c", "python", "left out"),
            paragraph("d", "mail", "..."),
        ]
    )
    games, science = debian.SECTIONS.index("games"), debian.SECTIONS.index("science")
    assert list(debian.read(index)) == [
        Raw("a game: of cards", games, "a"),
        Raw("data of b", science, "b"),
    ]


def test_the_first_index_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "FEWEST", 2)
    texts = iter(("one", "two"))

    def run(*_, **__):
        text = next(texts)
        index = "\n".join(paragraph(f"p{i}", "net", f"{text} {i}") for i in range(4))
        return subprocess.CompletedProcess([], 0, index.encode(), b"")

    monkeypatch.setattr(debian.subprocess, "run", run)
    first = list(debian.raw_descriptions(tmp_path))
    assert [row.text for row in first] == [f"one {i}" for i in range(4)]
    assert list(debian.raw_descriptions(tmp_path)) == first


def test_without_an_index_one_is_asked_for(tmp_path, monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    def empty(*_, **__):
        return subprocess.CompletedProcess([], 0, paragraph("a", "net", "b").encode(), b"")

    for run in (absent, empty):
        monkeypatch.setattr(debian.subprocess, "run", run)
        with pytest.raises(DownloadError, match="no index of Debian's packages"):
            list(debian.raw_descriptions(tmp_path))
    assert list((tmp_path / "data").iterdir()) == []
