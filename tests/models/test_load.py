"""No code of a folder runs, nobody is asked whether it may, and no pickle is read."""

import json
import time

import pytest
import torch

from tests.tiny import add_tokenizer, llama, lora, with_transformers
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError
from unmergeable.models.load import load_as, load_image_processor, load_model, load_tokenizer
from unmergeable.models.model_runner import ModelRunner
from unmergeable.verification.verify import verify


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Fails if anybody is asked, or if code that writes the file `ran` was run."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    start = time.monotonic()
    yield
    assert not (tmp_path / "ran").exists()
    assert time.monotonic() - start < 10


def edit(folder, name, **changes):
    path = folder / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **changes}))


def evil(tmp_path, folder, name="evil.py"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast as T, LlamaForCausalLM as M\n"
        "class T(T): pass\nclass M(M): pass\ndef generate(*a, **k): pass\n"
    )
    return folder


MAPS = {
    "config.json": {"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C", "AutoModel": "evil.M",
                    "AutoTokenizer": ["evil.T", "evil.T"], "AutoImageProcessor": "evil.T"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.T", "evil.T"]},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.T", "AutoProcessor": "evil.T"},
    "processor_config.json": {"AutoProcessor": "evil.T"},
    "generation_config.json": {"AutoModelForCausalLM": "evil.M"},
}  # fmt: skip


@pytest.mark.parametrize("file", MAPS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_code_that_a_folder_maps_is_never_run(quiet, tmp_path, file, known):
    folder = evil(tmp_path, add_tokenizer(llama(tmp_path / "m")))
    edit(folder, file, auto_map=MAPS[file])
    if not known:  # the class that the folder names is nobody's but its own
        edit(folder, "config.json", model_type="evil", architectures=["M"])
        edit(folder, "tokenizer_config.json", tokenizer_class="T")
    for run in (lambda: verify(folder, folder), lambda: ModelRunner.of(folder)):
        try:
            run()
        except UnmergeableError as error:
            assert "\n" not in str(error) and len(str(error)) < 700


@pytest.mark.parametrize("name", ["custom_generate/generate.py", "modeling_llama.py", "setup.py"])
def test_code_that_lies_there_is_never_run(quiet, tmp_path, name):
    folder = evil(tmp_path, add_tokenizer(llama(tmp_path / "m")), name)
    edit(folder, "generation_config.json", custom_generate="custom_generate")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.T"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert verify(folder, folder).same


def test_a_class_of_the_folders_own_is_refused_with_its_file(quiet, tmp_path):
    folder = evil(tmp_path, llama(tmp_path / "m"))
    edit(folder, "config.json", architectures=["M"], auto_map=MAPS["config.json"])
    with pytest.raises(UnsupportedError, match=r"no model class 'M'.*evil\.py.*never run"):
        load_model(folder, open_folder(folder).config)
    edit(folder, "config.json", architectures=None, model_type="evil")
    with pytest.raises(UnsupportedError, match=r"evil\.py.*never run"):
        load_model(folder, open_folder(folder).config)


def test_a_tokenizer_of_the_folders_own_is_refused_with_its_file(quiet, tmp_path):
    folder = evil(tmp_path, add_tokenizer(llama(tmp_path / "m")))
    edit(folder, "config.json", model_type="evil")
    mapped = {"AutoTokenizer": ["evil.T", None]}
    edit(folder, "tokenizer_config.json", auto_map=mapped, tokenizer_class="T")
    with pytest.raises(UnsupportedError, match=r"the tokenizer of .*evil\.py.*never run"):
        load_tokenizer(folder)


def test_an_image_processor_of_the_folders_own_is_refused_with_its_file(quiet, tmp_path):
    folder = evil(tmp_path, with_transformers(tmp_path / "m", "vit"))
    edit(folder, "config.json", model_type="evil")
    edit(folder, "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.T"})
    with pytest.raises(UnsupportedError, match=r"the image processor of .*evil\.py.*never run"):
        load_image_processor(folder)
    (folder / "preprocessor_config.json").unlink()
    assert load_image_processor(folder) is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "adapter_model.bin"])
def test_pickles_are_never_read(quiet, tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was read"))
    folder = llama(tmp_path / "m")
    (folder / name).write_bytes(b"pickle")
    assert verify(folder, folder).unchecked == (name,)
    config = open_folder(folder).config
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="transformers cannot load"):
        load_model(folder, config)


OTHERWISE = {
    "other weights": ({"transformers_weights": "other.safetensors"}, "other weights"),
    "a pickle": ({"transformers_weights": "adapter_model.bin"}, "other weights"),
    "a kernel": ({"attn_implementation": "someone/kernel"}, "code from the Hub"),
    "a kernel inside": ({"text_config": {"_attn_implementation": "a/b:c"}}, "code from the Hub"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_what_sends_transformers_elsewhere_is_refused(tmp_path, case):
    changes, message = OTHERWISE[case]
    folder = llama(tmp_path / "m", **changes)
    with pytest.raises(InputError, match=message):
        verify(folder, folder)


def test_weights_that_transformers_prefers_are_refused(tmp_path):
    """It would run them, and every other command reads the model's own."""
    folder, other = llama(tmp_path / "m"), llama(tmp_path / "o", seed=1)
    shard = "shard-00001-model-00001-of-00001.safetensors"
    (folder / shard).write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=shard):
        verify(folder, folder)


def test_an_adapter_beside_the_model_is_refused(tmp_path):
    """transformers would load it along, and every other command reads the model alone."""
    folder = llama(tmp_path / "m")
    for path in lora(tmp_path / "a").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"has an adapter beside the model"):
        verify(folder, folder)


@pytest.mark.parametrize(
    "name", ["pipeline", "logging", "AutoModel", "PretrainedConfig", "", "x" * 10_000, 5, ["a"], {}]
)
def test_what_is_no_model_class_is_refused(tmp_path, name):
    folder = llama(tmp_path / "m", architectures=[name])
    if name == "":  # nothing is named: transformers chooses by the type
        assert type(load_model(folder, open_folder(folder).config)).__name__ == "LlamaModel"
        return
    if not name:
        return
    with pytest.raises(UnsupportedError, match="no model class") as error:
        load_model(folder, {"model_type": "llama", "architectures": [name]})
    assert len(str(error.value)) < 500


def test_another_librarys_error_is_one_line_of_bounded_length(tmp_path):
    class Loader:
        @staticmethod
        def from_pretrained(*_, **__):
            raise ValueError("first\nsecond " + "x" * 10_000)

    folder = llama(tmp_path / "m")
    with pytest.raises(InputError, match=r"cannot load .*: first second") as error:
        load_as(Loader, folder, {})
    assert len(str(error.value)) < 500


def test_nothing_else_asks_transformers_for_something_of_a_folder():
    """One place says what is trusted; the package's own models are made from GGUF."""
    from pathlib import Path

    import unmergeable

    root = Path(unmergeable.__file__).parent
    found = {
        path.relative_to(root).as_posix(): path.read_text()
        for path in root.rglob("*.py")
        if ".from_pretrained(" in path.read_text()
    }
    assert set(found) == {"bench/zoo/smollm2.py", "models/load.py", "models/offload.py"}
    assert found["bench/zoo/smollm2.py"].count(".from_pretrained(") == 2
    assert found["bench/zoo/smollm2.py"].count("trust_remote_code=False") == 2
    assert "trust_remote_code=True" not in "".join(found.values())
