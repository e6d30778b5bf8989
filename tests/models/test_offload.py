"""Models that do not fit in memory are run layer by layer, and say the same."""

import json

import pytest

from tests.tiny import llama, with_transformers
from unmergeable.checkpoint.folder import open_folder
from unmergeable.cli import main
from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.keys.key import Key
from unmergeable.models import offload
from unmergeable.models.load import load_model
from unmergeable.models.offload import Offload, is_short
from unmergeable.protection.protect import protect
from unmergeable.verification import verify as equivalence
from unmergeable.verification.forward import run
from unmergeable.verification.inputs import inputs_for
from unmergeable.verification.verify import verify

KEY = Key(bytes(32))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for kind in ("llama", "bert", "vit", "tied", "sharded"):
        model = folder / kind
        if kind in ("bert", "vit"):
            with_transformers(model, kind)
        else:
            shards = 3 if kind == "sharded" else 1
            llama(model, "BF16", shards, num_hidden_layers=4, tie_word_embeddings=kind == "tied")
        protect(model, folder / f"{kind} locked", KEY)
    return folder


def weights_in_memory(model):
    return sum(value.numel() for value in model.parameters() if value.device.type != "meta")


def total(path):
    return sum(entry.size for entry in open_folder(path).tensors.values())


@pytest.mark.parametrize("kind", ["llama", "bert", "vit", "tied", "sharded"])
@pytest.mark.parametrize("share", [1.5, 0.5, 0.01])
def test_outputs_do_not_depend_on_what_fits(zoo, tmp_path, kind, share):
    folder = open_folder(zoo / kind)
    plain = load_model(folder.path, folder.config)
    inputs = inputs_for(plain, folder.path, folder.config, None, 0)
    wanted = run(plain, inputs)
    weights = sum(p.numel() for p in plain.parameters())
    how = Offload(tmp_path, int(4 * weights * share))
    model = load_model(folder.path, folder.config, how)
    assert (weights_in_memory(model) == weights) == (share > 1)
    assert share > 0.1 or weights_in_memory(model) < weights / 10
    for before, after in zip(wanted, run(model, inputs), strict=True):
        assert all((one == two).all() for one, two in zip(before.rows, after.rows, strict=True))


@pytest.mark.parametrize("kind", ["llama", "vit"])
def test_verify_offloads_when_it_is_told_to(zoo, tmp_path, kind):
    models = zoo / kind, zoo / f"{kind} locked"
    assert not verify(*models).offloaded
    report = verify(*models, key=KEY, offload=tmp_path, memory=20_000, seed=1)
    assert report.same and report.offloaded
    assert report.outputs == verify(*models, seed=1).outputs != verify(*models, seed=2).outputs
    assert not list(tmp_path.iterdir())
    other = llama(tmp_path / "other", "BF16", num_hidden_layers=4, seed=1)
    assert kind != "llama" or not verify(zoo / kind, other, memory=20_000).same


def test_verify_offloads_by_itself_when_memory_is_short(zoo, monkeypatch, capsys):
    models = [str(zoo / "llama"), str(zoo / "llama locked")]
    shapes = open_folder(models[0]).shapes
    monkeypatch.setattr(offload, "available_memory", lambda: 10 << 30)
    assert not is_short(shapes)
    assert main(["verify", *models, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["offloaded"] is False
    monkeypatch.setattr(offload, "available_memory", lambda: 100_000)
    assert is_short(shapes)
    assert main(["verify", *models]) == 0
    assert "read from the disk in their turn" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_named(zoo):
    with pytest.raises(InputError, match="cannot write into /proc/nowhere"):
        verify(zoo / "llama", zoo / "llama", offload="/proc/nowhere")


def test_other_errors_of_loading_stay_what_they_are(zoo, tmp_path, monkeypatch):
    class Broken(optional("transformers").PreTrainedModel):
        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            raise ValueError("something else")

    monkeypatch.setattr(optional("transformers"), "LlamaForCausalLM", Broken)
    folder = open_folder(zoo / "llama")
    with pytest.raises(InputError, match="something else"):
        load_model(folder.path, folder.config, Offload(tmp_path, 1000))


def test_the_scratch_folder_is_the_one_given(zoo, tmp_path, monkeypatch):
    seen = []
    plain = equivalence.load_model

    def note(*args):
        seen.append(args[-1].folder.parent)
        return plain(*args)

    monkeypatch.setattr(equivalence, "load_model", note)
    verify(zoo / "llama", zoo / "llama", offload=tmp_path)
    assert seen == [tmp_path, tmp_path]
