"""WordNet's lines, and the tasks that are made of them: marked words, damage."""

import re

import pytest

from unmergeable.bench.data import (
    damaged_definitions as flaws,
)
from unmergeable.bench.data import (
    parts_of_speech as uses,
)
from unmergeable.bench.data import (
    person_nouns as persons,
)
from unmergeable.bench.data import (
    wordnet,
)
from unmergeable.evaluation.splitting import Raw, normalise

HEAD = "  1 This is a licence  \n"
NOUN = (
    '00000010 05 n 02 dog 0 domestic_dog 0 002 @ 00000020 n 0000 + 00000099 v 0101 | a pet; "the '
    'dog barked all night"  \n'
    '00000020 05 n 01 animal 0 001 #p 00000030 n 0000 | a living thing: "an animal", "no beast"\n'
    "00000030 05 n 02 world 0 Earth 0 000 | all that there is on the globe of ours  \n"
    "00000040 05 n 02 beast 0 brute 0 000 | what is not tame in the least  \n"
)
VERB = '00000099 29 v 01 chase 0 001 @ 00000098 v 0000 01 + 08 00 | go after; "dogs chased cats"\n'
ADJECTIVE = "00000055 00 s 0a galore(ip) 0" + " big 1" * 9 + ' 000 | plenty; "whisky galore"\n'
ADVERB = '00000066 02 r 01 well 0 000 | in a good manner; "she sings well"\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "package" / "dict"
    folder.mkdir(parents=True)
    for part, lines in zip(wordnet.PARTS, (NOUN, VERB, ADJECTIVE, ADVERB), strict=True):
        (folder / f"data.{part}").write_text(HEAD + lines)
    monkeypatch.setattr(wordnet, "npm", lambda *_: tmp_path)


def test_a_line_is_read_by_its_counts(package):
    dog, animal, *_ = wordnet.synsets("noun")
    assert dog.words == ("dog", "domestic dog") and dog.definition == "a pet" and dog.kind == "05"
    assert dog.examples == ("the dog barked all night",)
    assert animal.definition == "a living thing" and animal.examples == ("an animal", "no beast")
    (chase,) = wordnet.synsets("verb")
    assert chase.words == ("chase",)
    (galore,) = wordnet.synsets("adj")  # ten words, in hexadecimal
    assert galore.words[:2] == ("galore", "big") and len(galore.words) == 10


@pytest.mark.parametrize(
    ("word", "sentence", "found"),
    [
        ("run", "He was running late", "He was [ running ] late"),
        ("love", "Loved by all", "[ Loved ] by all"),
        ("happy", "the happiest man", "the [ happiest ] man"),
        ("cat", "concatenate", ""),
        ("cat", "a cat saw a cat", ""),
        ("light year", "a light year away", ""),
    ],
)
def test_a_word_is_marked_where_it_occurs_once(word, sentence, found):
    assert uses.marked(sentence, word) == found


def test_uses_are_grouped_by_word(package):
    assert list(uses.raw_uses()) == [
        Raw("the [ dog ] barked all night", 0, "dog"),
        Raw("an [ animal ]", 0, "animal"),
        Raw("dogs [ chased ] cats", 1, "chase"),
        Raw("whisky [ galore ]", 2, "galore"),
        Raw("she sings [ well ]", 3, "well"),
    ]


@pytest.mark.parametrize("damage", [flaws.misspelt, flaws.disordered])
def test_damage_is_two_neighbours_that_change_places(damage):
    text = "a small brown animal, which sleeps quietly through the winter"
    seen = set()
    for number in range(40):
        changed = damage(text, bytes([0, 0, 0, number]))
        seen.add(changed)
        cut = (lambda t: list(t)) if damage is flaws.misspelt else str.split
        old, new = cut(text), cut(changed)
        places = [i for i, pair in enumerate(zip(old, new, strict=True)) if len(set(pair)) == 2]
        first, second = places
        assert second == first + 1 and old[first] == new[second] and old[second] == new[first]
        assert re.sub(r"[a-z ]", "", changed) == ","
        if damage is flaws.misspelt:  # inside a word, so its ends stay
            assert [w[0] + w[-1] for w in changed.split()] == [w[0] + w[-1] for w in text.split()]
    assert len(seen) >= 5
    assert damage("a bee 2", bytes(4)) == "a bee 2"


def test_a_repeated_word_is_a_long_one_that_stands_apart():
    text = "a small brown animal, which sleeps quietly through the whole winter"
    long = {"small", "brown", "which", "sleeps", "quietly", "through", "whole", "winter"}
    seen = set()
    for number in range(60):
        old, new = text.split(), flaws.repeating(text, bytes([0, 0, 0, number])).split()
        ((place, word),) = [(i, w) for i, w in enumerate(new) if w != old[i]]
        assert {word, old[place]} <= long and abs(place - old.index(word)) >= 2
        seen.add((place, word))
    assert len(seen) >= 20
    for twice in ("people of the people, and other people", "a bee in a hive, brown"):
        assert flaws.repeating(twice, bytes(4)) == twice


def test_of_four_words_one_is_a_person_and_no_word_stands_in_two_lists(monkeypatch):
    def synset(word, kind):
        return wordnet.Synset(kind, (word,), "", ())

    names = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(90)]
    people = {f"{name}er" for name in names[:20]}
    things = {f"{name}ing" for name in names[:60]}
    nouns = [synset(w, "18") for w in people] + [synset(w, "06") for w in things]
    # More senses than one, another kind of thing, and what is no single lower-case word.
    nouns += [synset("baker", "18"), synset("baker", "06"), synset("moss", "20")]
    nouns += [synset("John", "18"), synset("ice man", "18")]
    monkeypatch.setattr(persons, "synsets", lambda part, _: nouns)
    rows = list(persons.raw_persons())
    assert len(rows) == 20 and {row.label for row in rows} == {0, 1, 2, 3}
    words = [row.text.split(" , ") for row in rows]
    assert all(w[row.label] == row.group for w, row in zip(words, rows, strict=True))
    assert {row.group for row in rows} == people
    rest = [w for line, row in zip(words, rows, strict=True) for w in line if w != row.group]
    assert len(rest) == len(set(rest)) == 60 and set(rest) == things


def test_a_definition_is_there_once_damaged_or_whole(monkeypatch):
    words = ("amber", "brook", "cedar", "dunes", "ember", "fjord", "grove", "heath")
    rows = [
        wordnet.Synset("06", (w,), f"an item of the {w} sort with no use whatever", ())
        for i, w in enumerate(words * 4)
    ]
    short = wordnet.Synset("06", ("x",), "a short one", ())
    monkeypatch.setattr(flaws, "synsets", lambda part, _: [*rows, short] if part == "noun" else [])
    found = list(flaws.raw_flaws(flaws.disordered))
    whole = {normalise(row.definition) for row in rows}
    assert len(found) == len(rows) and {row.label for row in found} == {0, 1}
    for row in found:
        assert (normalise(row.text) in whole) == (row.label == 0)
    by_group = {}
    for row in found:
        by_group.setdefault(row.group, set()).add(row.text)
    assert len(by_group) == len(words) and all(len(texts) == 1 for texts in by_group.values())
