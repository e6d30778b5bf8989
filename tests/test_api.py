"""The public API: everything exported has an example that runs; `out` is always in one place."""

import doctest
import inspect
import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import unmergeable
from tests.auditing.scene import scene, task_file
from tests.tiny import write_pem

ERRORS = [
    name
    for name in unmergeable.__all__
    if isinstance(getattr(unmergeable, name), type)
    and issubclass(getattr(unmergeable, name), unmergeable.UnmergeableError)
]
SIMPLE = {*ERRORS} - {"UnmergeableError"}  # what the base says, they do
SIGNING = {"SignatureReport", "sign", "verify_signature"}  # they write into a folder
WITH_OUT = (
    "align",
    "mark_adapter",
    "merge",
    "protect",
    "protect_adapter",
    "relocate",
    "relock",
    "train",
    "unlock",
    "unlock_adapter",
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The files that the examples name: a base, two experts of it, a key, an adapter, data."""
    folder = tmp_path_factory.mktemp("examples")
    made = scene()
    for name, of in (("base", "base"), ("expert", "original"), ("peer", "peer")):
        shutil.copytree(made[of], folder / name)
        words = folder / name / "tokenizer_config.json"
        words.write_text(json.dumps({**json.loads(words.read_text()), "eos_token": "<pad>"}))
    unmergeable.keygen(folder / "owner.key")
    write_pem(folder, "signing.pem", "signing.pub")
    unmergeable.protect(folder / "expert", folder / "locked", folder / "owner.key")
    task_file(folder)
    rows = [json.dumps({"text": f"w{n} w{n + 1} w{n + 2}"}) for n in range(12)]
    (folder / "data.jsonl").write_text("\n".join(rows))
    some = (f"w{n % 50} w{n % 47} w{n % 53}" for n in range(2400))
    (folder / "texts.txt").write_text("\n".join(some))
    linear = ["q_proj", "v_proj"]
    lora = LoraConfig(r=2, lora_alpha=0.1, target_modules=linear, init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(folder / "expert")
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    return folder


@pytest.mark.parametrize("name", [name for name in unmergeable.__all__ if name not in SIMPLE])
def test_everything_exported_has_an_example_that_runs(name, shelf, tmp_path, monkeypatch):
    if name in SIGNING:
        pytest.importorskip("model_signing")
        shutil.copytree(shelf / "locked", tmp_path / "locked")
    for entry in shelf.iterdir():
        if (tmp_path / entry.name).exists():
            continue
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMERGEABLE_CACHE", str(shelf / "cache"))
    names = {"unmergeable": unmergeable}
    text = inspect.getdoc(getattr(unmergeable, name))
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert example.examples
    told = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_of_the_family_is_exported_and_explained(name):
    error = getattr(unmergeable, name)
    assert error.__doc__ and error.exit_code in (2, 3)


@pytest.mark.parametrize("name", WITH_OUT)
def test_the_folder_to_make_comes_second(name):
    assert [*inspect.signature(getattr(unmergeable, name)).parameters][1] == "out"
