"""Locks and unlocks a tiny model with an installed package: the command, no torch, no checkout.

`python package_check.py whl` also expects the compiled kernel, which wheels carry; an sdist that
was installed without a compiler (`gz`) must do without.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

WIDTH, FFN, WORDS = 16, 24, 32
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": FFN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": WORDS,
}
LAYER = {
    "input_layernorm": (WIDTH,),
    "mlp.down_proj": (WIDTH, FFN),
    "mlp.gate_proj": (FFN, WIDTH),
    "mlp.up_proj": (FFN, WIDTH),
    "post_attention_layernorm": (WIDTH,),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
}
SHAPES = {
    "lm_head": (WORDS, WIDTH),
    "model.embed_tokens": (WORDS, WIDTH),
    **{f"model.layers.0.{name}": shape for name, shape in LAYER.items()},
    "model.norm": (WIDTH,),
}


def write_model(folder: Path) -> None:
    """Writes a model folder with random weights."""
    random, table, data = np.random.default_rng(0), {}, b""
    for name, shape in SHAPES.items():
        content = random.normal(size=shape).astype("<f4").tobytes()
        where = [len(data), len(data) + len(content)]
        table[f"{name}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": where}
        data += content
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    content = struct.pack("<Q", len(header)) + header + data
    (folder / "model.safetensors").write_bytes(content)


def run(*arguments: str) -> str:
    """Runs the installed command; raises unless it exits with 0."""
    command = Path(sys.executable).with_name("unmergeable")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(kind: str) -> None:
    """Checks one installed package."""
    if find_spec("torch"):
        raise SystemExit("torch is installed here: this shows nothing about the core")
    kernel = find_spec("unmergeable.gauge._kernel") is not None
    if kernel != (kind == "whl"):
        raise SystemExit(f"{kind}: the compiled kernel is {'there' if kernel else 'missing'}")
    write_model(Path("model"))
    if "protect" not in run("--help"):
        raise SystemExit("--help does not name the commands")
    run("keygen", "owner.key")
    run("inspect", "model")
    for kind_of_lock in ("lossless", "general"):
        run("protect", "model", "locked-" + kind_of_lock, "--key", "owner.key",
            "--set", f"kind={kind_of_lock}")  # fmt: skip
        run("unlock", "locked-" + kind_of_lock, "open-" + kind_of_lock, "--key", "owner.key")
    one, locked, opened = (
        (Path(folder) / "model.safetensors").read_bytes()
        for folder in ("model", "locked-lossless", "open-lossless")
    )
    if one == locked or one != opened:
        raise SystemExit("unlocking did not give the original back, or locking changed nothing")


if __name__ == "__main__":
    main(sys.argv[1])
