"""Models by their id on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from unmergeable.errors import DownloadError, InputError

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.md",
    "*.jinja",
    "*.model",
    "LICENSE*",
    "NOTICE*",
]


def resolve(model: str | Path) -> Path:
    """The folder of a model: itself, or a download of that id.

    Raises:
        InputError: neither a folder nor an id.
        DownloadError: the Hub does not have it, or cannot be reached.
    """
    path = Path(model)
    if path.exists():
        return path
    if not isinstance(model, str) or not _ID.fullmatch(model):
        raise InputError(f"{model} is neither a folder nor a Hub id such as owner/name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DownloadError(f"no folder {model}, and the Hub did not give it: {reason}") from None
