"""Task files as nobody meant them: each is read, or refused in one short line."""

import json
import os
import random
import resource
import time

import pytest

from tests.evaluation.test_task_file import GOOD, ROWS
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.evaluation.task_file import read_tasks

COUNT = 300
WILD = [
    "", "~", "true", "-1", "1.5", "1e999", ".nan", "9" * 5000, "2026-11-28", "2026-99-99",
    "[]", "{}", "[[[]]]", "{a: {b: c}}", "? [a]\n: b", "'\\0'", '"\\0"', '"\\ud800"', "x" * 5000,
    "!!python/object/apply:os.system [id]", "!!binary zzz", "&a [*a]", "../" * 50, "/dev/zero",
    "/dev/null", ".", "pipe", "<<: 5", "- ", "{text", "{text} {more}", "%d", "|", ">", "\t", "\x00",
]  # fmt: skip


# Each list holds the one before it ten times.
LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "some.txt").write_text("one\n\n two \n")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def check(folder, content):
    (folder / "tasks.yaml").write_bytes(content)
    try:
        read_tasks(folder / "tasks.yaml")
    except UnmergeableError as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 1000, sentence


def mutants(seed):
    """A value in place of another, lines that are cut, copied or swapped, bytes that flip."""
    draw, lines = random.Random(seed), GOOD.splitlines()
    for _ in range(COUNT):
        found = list(lines)
        kind, at = draw.randrange(4), draw.randrange(len(found))
        if kind == 0 and ":" in found[at]:
            found[at] = f"{found[at].partition(':')[0]}: {draw.choice(WILD)}"
        elif kind == 1:
            found[at : at + draw.randrange(3)] = draw.choices(lines, k=draw.randrange(3))
        elif kind == 2:
            found[at] = " " * draw.randrange(8) + draw.choice(WILD)
        content = bytearray("\n".join(found).encode("utf-8", "replace"))
        if kind == 3:
            for _ in range(draw.randrange(1, 4)):
                content[draw.randrange(len(content))] = draw.randrange(256)
        yield bytes(content)


def test_mutants_are_read_or_refused_in_one_line(folder):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for content in mutants(0):
        check(folder, content)
    assert time.perf_counter() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("a0: &a0 [x]\n" + LAUGHS, "aliases stand for too much"),
        ("a: &a [*a]", "recursive"),
        ("tasks: " + "9" * 5000, "not YAML"),
        ("x" * (1 << 21), "the most that is read"),
        ("\x00", "not YAML"),
    ],
    ids=[
        "nesting",
        "aliases of aliases",
        "an alias of itself",
        "a number without end",
        "a large file",
        "a zero byte",
    ],
)
def test_what_would_fill_the_memory_is_refused(folder, content, message):
    (folder / "tasks.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_tasks(folder / "tasks.yaml")


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "absent.jsonl", ".", "x" * 300 + ".jsonl"])
def test_items_are_read_from_files_alone(folder, name):
    content = GOOD.replace("test: mine.jsonl", f"test: {name}")
    (folder / "tasks.yaml").write_text(content)
    with pytest.raises(InputError):
        read_tasks(folder / "tasks.yaml")


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"text": ' + "9" * 5000 + "}", '{"text": "\\ud800", "label": []}', "{", "5"],
    ids=["nesting", "a number without end", "half a pair", "cut", "a number"],
)
def test_items_that_are_no_json_are_refused_in_one_line(folder, line):
    (folder / "mine.jsonl").write_text(f"{line}\n")
    check(folder, GOOD.encode())
    with pytest.raises(InputError):
        read_tasks(folder / "tasks.yaml")
