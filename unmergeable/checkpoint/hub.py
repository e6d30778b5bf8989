"""Models by what users call them: a folder, an id on the Hugging Face Hub, or an address."""

from __future__ import annotations

import re
from pathlib import Path

from unmergeable.checkpoint.remote import Place, RemotePath, is_url
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


def locate(model: str | Place) -> Place:
    """Where a model is: as `resolve`, but an address such as s3://bucket/model is left there.

    Raises:
        UnmergeableError: as `resolve`; an address of an unknown kind.
    """
    if isinstance(model, RemotePath):
        return model
    return RemotePath.of(str(model)) if is_url(model) else resolve(model)


def resolve(model: str | Path) -> Path:
    """The folder of a model on this machine: itself, or a download of that id.

    Raises:
        InputError: neither a folder nor an id; an address.
        DownloadError: the Hub does not have it, or cannot be reached.
    """
    if is_url(model):
        raise InputError(
            f"{model} is not on this machine, and only protect, unlock and inspect read from an "
            "address. Download it first."
        )
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
