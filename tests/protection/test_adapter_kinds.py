"""Whatever adapter PEFT can save is carried with PEFT's own outputs, or refused in a sentence."""

import random
import re
import shutil
import warnings

import peft
import pytest
import torch
import transformers
from peft.tuners.lora.config import BdLoraConfig, KasaConfig

from unmergeable.errors import InputError, UnmergeableError, UnsupportedError
from unmergeable.keys.key import Key
from unmergeable.protection.adapters import protect_adapter, unlock_adapter
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
IDS = torch.arange(3, 19)[None]
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
# Of each: the class, its config, and the modules that an adapter may be of, or bring.
BASES = {
    "llama": ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": False}),
    "tied": ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    "square": ("LlamaForCausalLM", {**SMALL, "intermediate_size": 32}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64},
    ),
    "bert": ("BertForMaskedLM", SMALL),
    "classifier": ("BertForSequenceClassification", SMALL),
    "mixtral": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 4}),
}
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"]
MODULES = {
    "llama": (LLAMA, ["embed_tokens", "lm_head", "norm"]),
    "tied": (LLAMA, ["embed_tokens", "lm_head", "mlp"]),
    "square": (LLAMA, ["embed_tokens"]),
    "gpt2": (["c_attn", "c_proj", "c_fc", "wte", "wpe", "lm_head"], ["wte", "lm_head", "ln_f"]),
    "bert": (["query", "value", "dense", "word_embeddings", "decoder"], ["decoder"]),
    "classifier": (["query", "key", "dense", "word_embeddings"], ["classifier", "pooler"]),
    "mixtral": (["q_proj", "o_proj", "embed_tokens", "lm_head"], ["embed_tokens", "gate"]),
}
AUTO = {
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder in which every base is, open, and under each kind of lock."""
    folder = tmp_path_factory.mktemp("bases")
    for name, (model_class, config) in BASES.items():
        kind = getattr(transformers, model_class)
        torch.manual_seed(0)
        model = kind(kind.config_class(**config))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                gain = weight.dim() == 1 and key.endswith("weight")
                weight.copy_(gain + 0.2 * torch.randn(weight.shape))
        model.save_pretrained(folder / name)
        protect(folder / name, folder / f"{name}-lossless", KEY, settings={"scales": "true"})
        protect(folder / name, folder / f"{name}-general", KEY, settings={"kind": "general"})
    return folder


def outputs(model, adapter, task=None):
    auto = getattr(transformers, AUTO.get(task, "AutoModelForCausalLM"))
    if "bert" in str(model) and auto is transformers.AutoModelForCausalLM:
        auto = transformers.AutoModelForMaskedLM
    if "classifier" in str(model):
        auto = transformers.AutoModelForSequenceClassification
    torch.manual_seed(2)  # of what neither model nor adapter has
    loaded = auto.from_pretrained(model, dtype=torch.float32).eval()
    if adapter is None:
        return loaded
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(loaded, adapter).eval()(input_ids=IDS)
    logits = getattr(found, "logits", None)
    return found.last_hidden_state if logits is None else logits


def make(base, folder, dtype=torch.float32, **settings):
    """An adapter as PEFT saves it, none of its numbers where it began."""
    with warnings.catch_warnings(action="ignore"):
        adapted = peft.get_peft_model(
            outputs(base, None, settings.get("task_type")), peft.LoraConfig(**settings)
        )
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if weight.requires_grad and "magnitude" in name:
                    weight.mul_(1 + 0.3 * torch.rand(weight.shape))
                elif weight.requires_grad:
                    weight.add_(0.1 * torch.randn(weight.shape))
        adapted.to(dtype).save_pretrained(folder)


def check(bases, base, kind, tmp_path, bound=1e-4, **settings):
    """That an adapter is carried, and back."""
    locked, adapter, out = bases / f"{base}-{kind}", tmp_path / "adapter", tmp_path / "out"
    protect_adapter(adapter, out, KEY, locked)
    with warnings.catch_warnings(action="ignore"):
        wanted = outputs(bases / base, adapter, settings.get("task_type"))
        found = outputs(locked, out, settings.get("task_type"))
    assert (found - wanted).abs().max() < bound * wanted.abs().max(), settings
    unlock_adapter(out, tmp_path / "back", KEY, locked)
    with warnings.catch_warnings(action="ignore"):
        again = outputs(bases / base, tmp_path / "back", settings.get("task_type"))
    assert (again - wanted).abs().max() < bound * wanted.abs().max(), settings


CARRIED = [
    ("tied", {"target_modules": ["q_proj", "lm_head"]}),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("tied", {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
    ("tied", {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5, 9]}),
    ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [3]}}),
    ("llama", {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"}),
    ("llama", {"target_modules": ["embed_tokens", "down_proj"], "use_dora": True}),
    ("gpt2", {"target_modules": ["wte", "wpe", "c_proj"], "use_dora": True}),
    ("gpt2", {"target_modules": ["c_proj", "lm_head"], "fan_in_fan_out": False}),
    ("square", {"target_modules": ["q_proj", "up_proj"], "fan_in_fan_out": True}),
    ("square", {"target_modules": LLAMA[:6], "bias": "all", "lora_bias": True}),
    ("bert", {"target_modules": ["decoder", "dense"], "task_type": None}),
    ("bert", {"target_modules": ["query"], "task_type": "TOKEN_CLS"}),
    ("classifier", {"target_modules": ["query"], "modules_to_save": ["classifier", "pooler"]}),
    ("bert", {"target_modules": ["query"], "task_type": "TOKEN_CLS", "bias": "all"}),
    ("mixtral", {"target_modules": ["q_proj"], "modules_to_save": ["gate"]}),
    ("llama", {"target_modules": LLAMA, "init_lora_weights": "orthogonal", "r": 4}),
    ("llama", {"target_modules": LLAMA, "init_lora_weights": "eva"}),
    (
        "llama",
        {
            "target_modules": LLAMA[:6],
            "use_dora": True,
            "use_rslora": True,
            # Of several patterns that fit, the first one counts; a name is a regular expression.
            "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 64, "down_proj": 1, "q.proj": 32},
            "rank_pattern": {r".*\.1\.mlp\.(up|down)_proj": 6},
        },
    ),
]


@pytest.mark.parametrize(("base", "settings"), CARRIED, ids=str)
def test_adapters_that_are_carried(bases, tmp_path, base, settings):
    settings = {"r": 3, "lora_alpha": 7, **settings}
    make(bases / base, tmp_path / "adapter", **settings)
    check(bases, base, "lossless", tmp_path, **settings)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-4), (torch.float16, 1e-4)])
def test_adapters_of_half_precision_are_carried(bases, tmp_path, dtype, bound):
    settings = {"target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    make(bases / "llama", tmp_path / "adapter", dtype, **settings)
    locked = tmp_path / "llama-plain"
    protect(bases / "llama", locked, KEY, settings={"scales": "false"})
    (tmp_path / "llama").symlink_to(bases / "llama")
    check(tmp_path, "llama", "plain", tmp_path, bound, **settings)


REFUSED = [
    *(
        ("llama", {"init_lora_weights": way}, UnsupportedError, f"init_lora_weights='{way}'")
        for way in ("pissa", "pissa_niter_4", "olora")
    ),
    ("llama", {"task_type": "FEATURE_EXTRACTION"}, UnsupportedError, "for hidden states"),
    ("llama", {"layer_replication": [[0, 2], [1, 2]]}, UnsupportedError, "layer_replication="),
    ("llama", {"kasa_config": KasaConfig()}, UnsupportedError, "kasa_config="),
    (
        "llama",
        {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2)},
        UnsupportedError,
        "use_bdlora=",
    ),
    ("mixtral", {"target_parameters": ["experts.down_proj"]}, UnsupportedError, "target_param"),
    (
        "bert",
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
        UnsupportedError,
        r"this head \(task_type 'SEQ_CLS'\) reads 'pooled'",
    ),
    (
        "bert",
        {"target_modules": ["dense"], "task_type": "SEQ_CLS"},
        UnsupportedError,
        "pooler.dense.weight",
    ),
]


@pytest.mark.parametrize(("base", "settings", "error", "words"), REFUSED, ids=str)
def test_adapters_that_are_refused(bases, tmp_path, base, settings, error, words):
    make(bases / base, tmp_path / "adapter", **{"r": 2, "target_modules": ["q_proj"], **settings})
    with pytest.raises(error, match=words) as caught:
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, bases / f"{base}-lossless")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_hidden_states_is_carried_where_these_stay(bases, tmp_path):
    settings = {"target_modules": ["down_proj", "up_proj"], "task_type": "FEATURE_EXTRACTION"}
    make(bases / "llama", tmp_path / "adapter", **settings)
    protect(bases / "llama", tmp_path / "llama-ffn", KEY, settings={"spaces": "ffn"})
    (tmp_path / "llama").symlink_to(bases / "llama")
    check(tmp_path, "llama", "ffn", tmp_path, **settings)


def test_an_adapter_of_the_bare_model_is_one_for_hidden_states(bases, tmp_path):
    loaded = transformers.AutoModel.from_pretrained(bases / "llama")
    for name in ("adapter", "nameless"):
        adapted = peft.get_peft_model(loaded, peft.LoraConfig(target_modules=["q_proj"]))
        adapted.save_pretrained(tmp_path / name)
    config = tmp_path / "nameless" / "adapter_config.json"
    text = config.read_text()
    config.write_text(re.sub(r'"auto_mapping": \{.*?\}', '"auto_mapping": null', text, flags=re.S))
    assert '"auto_mapping": null' in config.read_text()
    for name in ("adapter", "nameless"):
        with pytest.raises(UnsupportedError, match="for hidden states"):
            protect_adapter(tmp_path / name, tmp_path / "out", KEY, bases / "llama-lossless")


SIBLINGS = {
    "wider": {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4},
    "narrower": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
    "more key heads": {"num_key_value_heads": 4},
    "wider ffn": {"intermediate_size": 96},
    "longer vocabulary": {"vocab_size": 80},
}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("changes", SIBLINGS.values(), ids=list(SIBLINGS))
def test_the_adapter_of_a_sibling_is_refused_by_both_shapes(bases, tmp_path, changes, dora):
    model_class, config = BASES["llama"]
    kind = getattr(transformers, model_class)
    kind(kind.config_class(**{**config, **changes})).save_pretrained(tmp_path / "sibling")
    make(tmp_path / "sibling", tmp_path / "adapter", target_modules=LLAMA, use_dora=dora)
    with pytest.raises(InputError, match=r"has shape \(.*must be \("):
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, bases / "llama-lossless")


def drawn(choose, base):
    """Settings of an adapter."""
    targets, saved = MODULES[base]
    settings = {
        "r": choose.choice([1, 2, 4, 6]),
        "lora_alpha": choose.choice([1, 5, 16]),
        "target_modules": choose.sample(targets, choose.randint(1, 3)),
        "fan_in_fan_out": choose.random() < 0.2,
    }
    patterns = [r"layers\.\d+\.mlp\..*", r".*\.1\..*", "q_proj", r"[^.]*_proj", "dense", "c_attn"]
    rare = {
        "use_rslora": [True],
        "use_dora": [True],
        "alpha_pattern": [{choose.choice(patterns): 3, choose.choice(patterns): 40}],
        "rank_pattern": [{choose.choice(patterns): 5}],
        "lora_bias": [True],
        "bias": ["all", "lora_only"],
        "modules_to_save": [[name] for name in saved],
        "init_lora_weights": [False, "gaussian", "eva", "orthogonal", "olora", "pissa", "mica"],
        "trainable_token_indices": [[1, 5, 9], {"embed_tokens": [3, 4]}, {"lm_head": [3, 7]}],
        "ensure_weight_tying": [True],
        "layers_to_transform": [[1]],
        "task_type": ["CAUSAL_LM", *AUTO],
    }
    for name, choices in rare.items():
        if choose.random() < 0.25:
            settings[name] = choose.choice(choices)
    return settings


def test_no_adapter_comes_out_wrong(bases, tmp_path):
    """Settings at random. Those that PEFT itself refuses, and those of which it loads nothing, go.

    That PEFT and this package refuse some leaves enough that are carried.
    """
    choose, carried = random.Random(1), 0
    for _ in range(36):
        base = choose.choice(list(BASES))
        settings, kind = drawn(choose, base), choose.choice(["lossless", "general"])
        for name in ("adapter", "out", "back"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        try:
            make(bases / base, tmp_path / "adapter", **settings)
            with warnings.catch_warnings(action="ignore"):
                outputs(bases / base, tmp_path / "adapter", settings.get("task_type"))
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError):
            continue
        try:
            check(bases, base, kind, tmp_path, **settings)
            carried += 1
        except UnmergeableError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 700
    assert carried > 8
