"""Every command of the story in the guide, in its order, on tiny models."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tracing.models import fine_tunes
from unmergeable.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "story.md"
# What the page says of each trace, in its order: a sentence, and with what weight.
TRACES = (
    ("contains the copy of bob", 1.0),
    ("contains the release to all", 0.3),
    ("", None),
    ("contains the release to all", 0.5),
)


def test_the_story_is_as_the_guide_tells_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mergekit")
    pytest.importorskip("model_signing")
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    monkeypatch.chdir(tmp_path)
    fine_tunes(tmp_path, "expert", "peer", "partner")
    told = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.S | re.M):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            if program in ("openssl", "cp", "rm"):
                subprocess.run([program, *arguments], check=True, capture_output=True)
                continue
            assert program == "unmergeable"
            code = main(arguments)
            said = capsys.readouterr()
            if arguments[0] == "trace":
                told.append(said.out)
            assert code == 0, f"{line}\n{said.err}{said.out}"
    for out, (sentence, weight) in zip(told, TRACES, strict=True):
        assert sentence in out
        found = re.search(r"weight (\S+)", out)
        assert weight is None or float(found[1]) == pytest.approx(weight, abs=0.05), out
    assert main(["unlock", "for-partner", "again", "--key", "owner.key"]) == 2
