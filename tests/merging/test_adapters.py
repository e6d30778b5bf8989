"""LoRA folders of PEFT, against PEFT itself."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.merging.small import FAMILIES, runner
from unmergeable.errors import InputError
from unmergeable.merging.adapters import read_adapter
from unmergeable.merging.knots import merge_deltas

# of PEFT's own about what it merges, and of transformers about PEFT
pytestmark = pytest.mark.filterwarnings("ignore")
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}


@pytest.fixture
def adapter(tmp_path):
    def make(family="llama", name="adapter", seed=0, **changes):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=TARGETS[family],
            fan_in_fan_out=family == "gpt2",
            **changes,
        )
        model = peft.get_peft_model(runner(family).model, config)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 7}, "r": 3}]
)
def test_an_adapter_changes_its_base_as_peft_does(adapter, family, changes):
    changes = {key: value for key, value in changes.items() if key != "r"}
    folder, model = adapter(family, **changes)
    before = {n: t.clone() for n, t in runner(family).model.state_dict().items()}
    merged = model.merge_and_unload().state_dict()
    pairs = read_adapter(folder)
    assert len(pairs) == 4
    for name, pair in pairs.items():
        change = merged[name] - before[name]
        torch.testing.assert_close(
            change.T if pair.transposed else change, pair.delta, atol=1e-5, rtol=1e-4
        )
    for name in before.keys() - pairs.keys():
        assert torch.equal(merged[name], before[name])


def test_adapters_merge_by_knots(adapter):
    folders = [adapter(name=f"a{seed}", seed=seed)[0] for seed in (1, 2)]
    read = [read_adapter(folder) for folder in folders]
    layers = {name: [pairs[name].delta for pairs in read] for name in read[0]}
    summed = merge_deltas(layers, weight=1.0, by="sum")
    ties = merge_deltas(layers)
    for name, parts in layers.items():
        torch.testing.assert_close(summed[name], parts[0] + parts[1])
        assert torch.linalg.matrix_rank(ties[name]) <= 6
        assert ties[name].isfinite().all()


def test_what_is_no_plain_lora_is_refused(adapter, tmp_path):
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path)
    dora, _ = adapter(name="dora", use_dora=True)
    with pytest.raises(InputError, match=r"with use_dora=True.*only plain LoRA"):
        read_adapter(dora)
    saved, _ = adapter(name="saved", modules_to_save=["lm_head"])
    with pytest.raises(InputError, match=r"1 tensors that are no A or B.*such as .*lm_head"):
        read_adapter(saved)
    plain, _ = adapter(name="plain")
    config = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": None}))
    with pytest.raises(InputError, match="lora_alpha is None"):
        read_adapter(plain)
    (plain / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(plain / "adapter_model.safetensors")
    first = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != first}, plain / "adapter_model.safetensors")
    with pytest.raises(InputError, match="1 tensors that are no A or B"):
        read_adapter(plain)
    (plain / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="Adapters in pickles are not read"):
        read_adapter(plain)
