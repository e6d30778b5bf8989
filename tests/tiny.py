"""Tiny seeded model folders, made of numpy alone unless a class of transformers is asked for."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

NUMBERS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I64": np.dtype("<i8"),
}
NAMES = {number: name for name, number in NUMBERS.items()}

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama_shapes(config: dict[str, Any] = LLAMA) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama, in the order in which transformers saves them."""
    width, ffn, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": (vocab, width)}
    if config.get("tie_word_embeddings"):
        shapes = {}
    shapes["model.embed_tokens.weight"] = (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "mlp.down_proj.weight": (width, ffn),
            prefix + "mlp.gate_proj.weight": (ffn, width),
            prefix + "mlp.up_proj.weight": (ffn, width),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.k_proj.weight": (keys, width),
            prefix + "self_attn.o_proj.weight": (width, width),
            prefix + "self_attn.q_proj.weight": (width, width),
            prefix + "self_attn.v_proj.weight": (keys, width),
        }
    shapes["model.norm.weight"] = (width,)
    return shapes


def llama_weights(
    seed: int = 0, dtype: str = "F32", config: dict[str, Any] = LLAMA
) -> dict[str, np.ndarray]:
    """Random weights, norm gains included."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in llama_shapes(config).items():
        values = random.normal(size=shape) * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)
        weights[name] = (values + (len(shape) == 1)).astype(NUMBERS[dtype])
    return weights


def write_safetensors(
    path: Path, weights: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file with its tensors in the given order."""
    table: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, array in weights.items():
        start, end = end, end + array.nbytes
        table[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    data = b"".join(array.tobytes() for array in weights.values())
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def save(
    folder: Path, weights: dict[str, np.ndarray], config: dict[str, Any], shards: int = 1
) -> Path:
    """Writes a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    metadata = {"format": "pt"}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, metadata)
        return folder
    where = {}
    for shard, names in enumerate(np.array_split(list(weights), shards), 1):
        file = f"model-{shard:05}-of-{shards:05}.safetensors"
        part = {str(name): weights[str(name)] for name in names}
        write_safetensors(folder / file, part, metadata)
        where |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


def llama(folder: Path, dtype: str = "F32", shards: int = 1, seed: int = 0, **changes: Any) -> Path:
    """A Llama of 2 layers, width 32, 4 heads on 2 key-value heads, 64 words."""
    config = LLAMA | changes
    return save(folder, llama_weights(seed, dtype, config), config, shards)


def llama_in_memory(seed: int = 0, **changes: Any) -> Any:
    """The same Llama as transformers draws and runs it, with these changes of its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**LLAMA | changes)).eval()


def stored(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a folder as safetensors itself reads it: dtype, shape, bytes."""
    import safetensors

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            found[name] = (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
    return dict(sorted(found.items()))


def hashes_of(folder: Path, hashing: Callable[[], Any]) -> dict[str, str]:
    """The hash of every tensor's bytes."""
    found = {}
    for name, (_, _, data) in stored(folder).items():
        hasher = hashing()
        hasher.update(data)
        found[name] = hasher.hexdigest()
    return found


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder as an array."""
    return {
        name: np.frombuffer(data, NUMBERS[dtype]).reshape(shape).copy()
        for name, (dtype, shape, data) in stored(folder).items()
    }


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def logits(folder: Path) -> np.ndarray:
    """What a language model says to 2 sequences of 12 random tokens, computed in float64."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(input_ids=ids).logits.numpy()


def with_transformers(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny "bert" (encoder) or "vit" (image classifier), saved by transformers itself."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    if kind == "bert":
        model = transformers.BertModel(
            transformers.BertConfig(vocab_size=64, max_position_embeddings=64, **sizes)
        )
    else:
        model = transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=16, patch_size=8, num_labels=5, **sizes)
        )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def add_tokenizer(folder: Path) -> Path:
    """Gives a folder a tokenizer of 64 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[BOS]", "[EOS]", "the", "cat", "dog", "sat", "ran", "on", "mat"]
    words += [f"w{n}" for n in range(64 - len(words))]
    vocabulary = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"})
    )
    return folder


def lora(folder: Path, module: str = "model.layers.0.self_attn.q_proj", width: int = 32) -> Path:
    """A LoRA adapter of one square layer of a tiny model, as PEFT saves it."""
    random, name = np.random.default_rng(0), f"base_model.model.{module}"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    factors = {
        f"{name}.lora_A.weight": random.normal(size=(2, width)).astype("<f4"),
        f"{name}.lora_B.weight": random.normal(size=(width, 2)).astype("<f4"),
    }
    write_safetensors(folder / "adapter_model.safetensors", factors)
    return folder


def write_pem(
    folder: Path, private: str, public: str, key: Any = None, passphrase: str = ""
) -> Any:
    """Writes both halves of a key that signs, of ECDSA on P-256 if none is given."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = key or ec.generate_private_key(ec.SECP256R1())
    secret = (
        form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    )
    pem, kind = form.Encoding.PEM, form.PrivateFormat.PKCS8
    (folder / private).write_bytes(key.private_bytes(pem, kind, secret))
    info = form.PublicFormat.SubjectPublicKeyInfo
    (folder / public).write_bytes(key.public_key().public_bytes(pem, info))
    return key


def interrupt_after(count, error=KeyboardInterrupt):
    """Progress that stops a run once it was told more than `count` times."""
    told = 0

    def progress(status):
        nonlocal told
        told += 1
        if told > count:
            raise error

    return progress
