import pytest

from unmergeable.defences.unlabelled import read_unlabelled
from unmergeable.errors import InputError


def test_data_come_as_users_have_them(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\n")
    assert read_unlabelled(tmp_path / "a.txt") == ["one", "two"]
    (tmp_path / "b.jsonl").write_text('{"text": "one", "label": 3}\n{"prompt": "two"}\n')
    assert read_unlabelled(str(tmp_path / "b.jsonl")) == ["one", "two"]
    for name in ("x/1.png", "x/y/2.JPG", "x/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = read_unlabelled(tmp_path / "x")
    assert found == [str(tmp_path / "x/1.png"), str(tmp_path / "x/y/2.JPG")]
    assert read_unlabelled(["one"]) == ["one"]
    assert read_unlabelled(None) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n\n", "holds no text"),
        ("a.jsonl", '{"text": "one"}\n{"label": 1}\n', r"a\.jsonl, line 2: neither"),
        ("a.jsonl", '{"text": 3}\n', "line 1: neither"),
        ("a.jsonl", '{"text"\n', "line 1: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: neither"),
    ],
)
def test_data_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_unlabelled(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        read_unlabelled(tmp_path / "absent")
