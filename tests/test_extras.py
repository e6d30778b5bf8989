"""What is not installed is named, with the command that installs it."""

import pytest

from unmergeable.cli import main
from unmergeable.errors import MissingExtraError
from unmergeable.extras import EXTRAS, optional


@pytest.mark.parametrize(("library", "extra"), EXTRAS.items())
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, library, extra):
    def gone(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("unmergeable.extras.import_module", gone)
    with pytest.raises(MissingExtraError, match=rf"needs {library}.*unmergeable\[{extra}\]"):
        optional(f"{library}.part")


def test_a_fault_inside_a_library_is_not_mistaken_for_its_absence(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'something_else'", name="something_else")

    monkeypatch.setattr("unmergeable.extras.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="something_else"):
        optional("scipy.linalg")


def test_the_demo_asks_for_its_libraries_at_once(monkeypatch, capsys, tmp_path):
    def gone(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")
    monkeypatch.setattr("unmergeable.extras.import_module", gone)
    assert main(["demo", "--cache", str(tmp_path)]) == 2
    assert "pip install 'unmergeable[run]'" in capsys.readouterr().err
