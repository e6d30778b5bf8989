"""A model whose architecture was changed is made a stock model before it is aligned."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import add_tokenizer, with_transformers
from unmergeable.attacks.align import align
from unmergeable.auditing.audit_inputs import prepare
from unmergeable.errors import InputError
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))


def expert_of(base, folder):
    """A small step away from a base, with its other files."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(1)
    state = load_file(base / "model.safetensors")
    moved = {
        name: t + 0.01 * t.std().nan_to_num() * torch.randn_like(t) for name, t in state.items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def data(tmp_path, kind):
    if kind == "bert":
        return ["the cat sat", "on the mat the dog ran", "cat dog"]
    random, paths = np.random.default_rng(0), []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("chain", ["mergebarrier", "lock+mergebarrier"])
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_align_undoes_a_barrier_without_the_key(tmp_path, kind, chain):
    base = with_transformers(tmp_path / "base", kind)
    if kind == "bert":
        add_tokenizer(base)
    expert = expert_of(base, tmp_path / "expert")
    protect(
        expert, tmp_path / "out", KEY, defence=chain, settings={"neurons": 0.5},
        data=data(tmp_path, kind),
    )  # fmt: skip
    report = align(tmp_path / "out", tmp_path / "back", base)
    assert not report.suspicious
    found, wanted, start = (
        load_file(tmp_path / x / "model.safetensors") for x in ("back", "expert", "base")
    )
    assert found.keys() == wanted.keys() == start.keys()  # or merge tools refuse it
    left = sum(float((found[n] - wanted[n]).square().sum()) for n in found)
    vector = sum(float((start[n] - wanted[n]).square().sum()) for n in found)
    # Heads may turn a little towards the base: that changes no output.
    assert left < 0.3 * vector
    assert (tmp_path / "back" / "config.json").read_text().count("mergebarrier") == 0
    assert not (tmp_path / "back" / "modeling_mergebarrier.py").exists()


def test_an_audit_says_what_to_do_with_a_barrier(tmp_path):
    base = add_tokenizer(with_transformers(tmp_path / "base", "bert"))
    protect(
        base, tmp_path / "out", KEY, defence="mergebarrier", settings={"neurons": 0.5},
        data=["the cat sat"],
    )  # fmt: skip
    with pytest.raises(InputError, match=r"every merge tool refuses it.*unmergeable align"):
        prepare(tmp_path / "out", base, base, [base], TaskFile((0, 1), (), {}), tmp_path, 0, None)
