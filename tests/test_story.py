"""Every command of the story in the guide, in its order, on tiny models."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import LLAMA, llama_weights, save
from unmergeable.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "story.md"
CONFIG = LLAMA | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
# What the page says of each trace, in its order: a sentence, and with what weight.
TRACES = (
    ("contains the copy of bob", 1.0),
    ("contains the release to all", 0.3),
    ("", None),
    ("contains the release to all", 0.5),
)


def tuned(base, seed):
    draw = np.random.default_rng(seed)
    return {
        name: (w + 0.03 * np.sqrt(np.mean(np.square(w))) * draw.normal(size=w.shape)).astype("<f4")
        for name, w in base.items()
    }


def test_the_story_is_as_the_guide_tells_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mergekit")
    pytest.importorskip("model_signing")
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    monkeypatch.chdir(tmp_path)
    base = llama_weights(0, "F32", CONFIG)
    for number, name in enumerate(("base", "expert", "peer", "partner")):
        save(tmp_path / name, tuned(base, number) if number else base, CONFIG)
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
