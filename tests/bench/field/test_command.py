import json

import pytest

from unmergeable.cli import main


@pytest.fixture(autouse=True)
def no_restart(monkeypatch):
    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")  # or the test would be restarted


def test_a_page_without_results_says_so(tmp_path, capsys):
    code = main(
        ["bench", "field", "--page", "--json", "--cache", str(tmp_path), "--out", str(tmp_path)]
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measured"] == 0
    text = (tmp_path / "results.md").read_text()
    assert "No suite has been run yet" in text and "encoder: has not been run" in text


@pytest.mark.parametrize(
    "wrong", [["--suite", "moss"], ["--defence", "moss"], ["--only", "moss"], ["--workers", "moss"]]
)
def test_unknown_names_are_bad_input(wrong, tmp_path, capsys):
    code = main(["bench", "field", *wrong, "--cache", str(tmp_path), "--out", str(tmp_path)])
    assert code == 2
    assert "moss" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
