from unmergeable.bench.data import glosses as module

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"


def line(number, gloss):
    return f"00001740 {number} n 01 entity 0 003 ~ 00001930 n 0000 | {gloss}  \n"


def read(tmp_path, *lines):
    path = tmp_path / "data.noun"
    path.write_text(LICENCE + "".join(lines))
    return list(module._read(path, tuple(module.KINDS)))


def test_examples_go_and_other_kinds_too(tmp_path):
    rows = read(
        tmp_path,
        line("18", 'one who sails; of the sea; "the sailor slept"; "old sailors"'),
        line("07", "the quality of being a sailor"),
        line("13", "a dish | of two halves"),
    )
    assert [(row.text, row.label) for row in rows] == [
        ("one who sails; of the sea", list(module.KINDS).index("18")),
        ("a dish | of two halves", list(module.KINDS).index("13")),
    ]


def test_long_definitions_are_cut_at_a_word(tmp_path):
    (row,) = read(tmp_path, line("20", "herb " * 40))
    assert len(row.text) <= module.LETTERS and row.text.endswith("herb")


def test_the_group_looks_behind_common_openings(tmp_path):
    rows = read(
        tmp_path,
        line("20", "any of various plants of the genus Aster having daisylike heads"),
        line("20", "any of several plants of the genus Rosa"),
        line("20", "a large tree of Borneo"),
    )
    assert [row.group for row in rows] == [
        "plants of the genus",
        "plants of the genus",
        "tree of borneo",
    ]


def test_builds_a_balanced_task(tmp_path, monkeypatch):
    path = tmp_path / module.FILE
    path.parent.mkdir(parents=True)
    path.write_text(
        LICENCE + "".join(line(n, f"w{n}x{i} is something") for n in module.KINDS for i in range(9))
    )
    monkeypatch.setattr(module, "npm", lambda *_: tmp_path)
    task = module.glosses(train=5, validation=1, test=3)
    classes = len(module.KINDS)
    assert (len(task.train), len(task.validation), len(task.test)) == (
        *(5 * classes, classes),
        3 * classes,
    )
    numbers = list(module.KINDS)
    for item in task.train + task.validation + task.test:
        assert item.text.startswith(f"w{numbers[item.label]}x")
