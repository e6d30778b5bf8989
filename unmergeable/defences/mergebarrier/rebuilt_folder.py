"""Writes a model whose architecture a defence changed."""

from __future__ import annotations

import json

import numpy as np

from unmergeable.checkpoint.digest import file_digest
from unmergeable.checkpoint.folder import CONFIG, INDEX, ModelFolder
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences.defence import Rebuilt
from unmergeable.extras import optional

SHARD = "5GB"


def write_rebuilt(rebuilt: Rebuilt, folder: ModelFolder, staging: Staging) -> dict[str, str]:
    """Writes weights, config, code, and what may be copied of the stock folder.

    Args:
        rebuilt: the model.
        folder: the stock one, whose tokenizer and cards are copied.
        staging: where.

    Returns:
        the digest of each file by its name.
    """
    torch, hub = optional("torch"), optional("huggingface_hub")
    bits = {2: np.int16, 4: np.int32, 8: np.int64}
    state = {}
    for name, values in rebuilt.tensors.items():
        values = np.ascontiguousarray(values)
        dtype = getattr(torch, values.dtype.name)  # numpy's own bfloat16 is unknown to torch
        pattern = values.view(bits[values.dtype.itemsize])
        state[name] = torch.from_numpy(pattern).view(dtype)
    hub.save_torch_state_dict(state, staging.path, max_shard_size=SHARD, metadata={"format": "pt"})
    content = {name: folder.read_companion(name) for name in folder.companions if name != INDEX}
    content |= rebuilt.files
    content[CONFIG] = (json.dumps(rebuilt.config, indent=2) + "\n").encode()
    for name, data in content.items():
        staging.write_file(name, data)
    digests = {}
    for path in sorted(staging.path.rglob("*")):
        if path.is_file() and not path.name.startswith(".journal"):
            path.chmod(0o644)  # safetensors makes its files for their owner alone
            digests[path.relative_to(staging.path).as_posix()] = file_digest(path)
    return digests
