"""Runs of words of a declaration in many languages."""

import pytest

from unmergeable.tasks import encoder_tasks, languages
from unmergeable.tasks.splitting import normalise


def page(words):
    articles = "".join(
        f'<article data-number="{number}"><h2>Article {number}.</h2><ol><li><p>{text}</p></li></ol>'
        "</article>"
        for number, text in words.items()
    )
    return f"<html><body><header><p>left out</p></header>{articles}</body></html>"


def test_paragraphs_know_their_article():
    found = languages.paragraphs(page({"1": "Born <b>free</b> &amp; equal", "12": "No one"}))
    assert found == [("1", "Born free & equal"), ("12", "No one")]


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / languages.FOLDER
    folder.mkdir(parents=True)
    for place, name in enumerate(languages.LANGUAGES):
        word = "abcdefghijklmnopqrstuvwx"[place] * 3
        texts = {}
        for number in range(1, 13):
            own = [f"{word}{'abcdefghijkl'[number - 1]}{x}" for x in "pqrstuvw"]
            texts[str(number)] = "All have the right " + ", ".join(own) + " too few."
        (folder / f"{name}.html").write_text(page(texts), "utf-8")
    monkeypatch.setattr(languages, "npm", lambda *_, **__: tmp_path)


def test_runs_that_are_repeated_are_left_out(package):
    rows = list(languages.raw_languages())
    assert len(rows) == 24 * 12 * 2
    assert all(len(row.text.split()) == 4 and "right" not in row.text for row in rows)
    assert len({normalise(row.text) for row in rows}) == len(rows)


def test_no_article_is_in_two_splits(package):
    task = encoder_tasks.languages(train=4, validation=2, test=4)
    articles = [
        {item.text[3] for item in part} for part in (task.train, task.validation, task.test)
    ]
    assert not (articles[0] & articles[1] | articles[0] & articles[2] | articles[1] & articles[2])
    assert len(task.test) == 4 * 24 and {item.label for item in task.test} == set(range(24))
