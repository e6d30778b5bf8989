"""Streams that are closed, full or unread: no traceback, and the exit code stays what it is."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from tests.tiny import llama
from unmergeable import cli
from unmergeable.cli import main
from unmergeable.cli.streams import Guarded, guarded, lost

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(cli.__file__)))  # noqa: PTH120
RUN = f"{sys.executable} -m unmergeable"
REDIRECTIONS = {
    "closed": ">&-",
    "full": ">/dev/full",
    "unread": "| true",
    "closed with stderr": ">&- 2>&-",
    "full with stderr": ">/dev/full 2>/dev/full",
    "all closed": "<&- >&- 2>&-",
    "stderr closed": ">/dev/null 2>&-",
}


def shell(command, folder, **environment):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("streams")
    llama(place / "m")
    assert shell(f"{RUN} keygen k", place).returncode == 0
    return place


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full device")  # noqa: PTH110
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_no_stream_changes_an_exit_code(folder, tmp_path, redirection):
    where = REDIRECTIONS[redirection]
    done = shell(f"{RUN} protect m {tmp_path}/out --key k {where}", folder)
    assert done.returncode == 0 and (tmp_path / "out" / "unmergeable.json").exists()
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    done = shell(f"{RUN} inspect absent --json {where}", folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_help_that_nobody_reads_is_fine(folder):
    done = shell(f"{RUN} --help | true", folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_that_is_lost_is_said_on_stderr(folder):
    done = shell(f"{RUN} inspect m --json >/dev/full", folder)
    assert done.stderr.count("\n") == 1 and "could not be printed: No space left" in done.stderr


def test_weights_never_get_the_descriptor_of_a_closed_stream(folder):
    """Else what a library prints would be written into them."""
    script = (
        "import os; from unmergeable.cli.streams import hold; hold();"
        "assert os.open('k', os.O_RDONLY) > 2; os.write(1, b'x')"
    )
    assert shell(f'{sys.executable} -c "{script}" <&- >&- 2>&-', folder).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_that_an_encoding_lacks_are_printed_as_escapes(folder, encoding):
    name = "m😀é"
    if not (folder / name).exists():
        llama(folder / name)
    done = shell(f"{RUN} inspect {name} --json", folder, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert json.loads(done.stdout)["model"] == name
    done = shell(f"{RUN} inspect {name}", folder, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_are_no_text_are_printed(folder):
    llama(folder / "m\udcff")
    done = shell(f"{RUN} inspect $'m\\xff' --json", folder)
    assert json.loads(done.stdout)["model"] == "m\udcff"


# The guard itself


class Failing(io.StringIO):
    """Fails from the second write on."""

    def __init__(self, error):
        super().__init__()
        self.error, self.count = error, 0

    def write(self, text):
        self.count += 1
        if self.count > 1:
            raise self.error
        return super().write(text)


ERRORS = {
    "reader left": (BrokenPipeError(errno.EPIPE, "Broken pipe"), ""),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    "closed": (ValueError("I/O operation on closed file"), "I/O operation on closed file"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_the_first_failure_is_noted_and_nothing_is_tried_again(case):
    error, why = ERRORS[case]
    below = Failing(error)
    stream = Guarded(below)
    assert [print(word, file=stream) for word in "abc"] == [None] * 3
    stream.flush()
    assert below.count == 2 and stream.failure is error and lost(stream) == why
    assert not stream.isatty()


def test_without_a_stream_nothing_is_written_and_nothing_fails(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with guarded() as (out, _):
        print("a")
        assert (out.encoding, out.isatty(), lost(out)) == ("utf-8", False, "")
        with pytest.raises(io.UnsupportedOperation):
            out.fileno()
        with pytest.raises(TypeError):
            out.write(b"a")
    assert sys.stdout is None


def test_a_broken_pipe_inside_a_command_is_a_failure_and_never_the_answer_no(capsys, monkeypatch):
    def broken(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("unmergeable.protection.inspect.inspect", broken)
    before = sys.stdout
    assert main(["inspect", "m", "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)
    assert sys.stdout is before
