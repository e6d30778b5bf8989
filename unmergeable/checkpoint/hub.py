"""Models by what users call them: a folder, an id on the Hugging Face Hub, or an address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from unmergeable.checkpoint.companions import hub_patterns
from unmergeable.checkpoint.remote import Place, RemotePath, is_url
from unmergeable.errors import DownloadError, InputError, clip

_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
# A page of the Hub as it is copied from a browser, with or without its protocol.
_PAGE = re.compile(
    r"(?:https?://(?:[^/@]*@)?)?(?:www\.)?(?:huggingface\.co|hf\.co)(?:/(?P<path>.*))?",
    re.IGNORECASE | re.DOTALL,
)
_AT_REVISION = {"tree", "blob", "resolve", "raw", "commits", "commit", "blame"}
# Weights besides a model's own, which repositories keep in these places.
_OTHER_WEIGHTS = ["original/*", "onnx/*", "openvino/*", "consolidated*.safetensors"]


class HubId(NamedTuple):
    """A model on the Hub.

    Attributes:
        name: owner/name.
        revision: a branch, tag or commit; None for the main one.
    """

    name: str
    revision: str | None

    @classmethod
    def of(cls, text: str) -> HubId | None:
        """Reads an id, with or without @revision, or the address of a model's page.

        Returns:
            None for what is neither.

        Raises:
            InputError: a page of the Hub that is not a model's.
        """
        if (page := _PAGE.fullmatch(text)) is not None:
            return cls._of_page(page["path"] or "")
        found = _ID.fullmatch(text.removeprefix("hf://").rstrip("/"))
        if found is None or ".." in (found["revision"] or ""):
            return None
        return cls(found["id"], found["revision"])

    @classmethod
    def _of_page(cls, path: str) -> HubId:
        parts = unquote(re.split(r"[?#]", path)[0]).strip("/").split("/")
        found = None
        if parts[0] not in ("datasets", "spaces", "collections", "papers", "docs", "api", "blog"):
            found = cls.of("/".join(parts[:2]))
        where = parts[2:]
        if found is None or (where[:1] == ["tree"] and len(where) > 2 and where[1] != "refs"):
            raise InputError(
                f"the page {clip('/'.join(parts))!r} of the Hub is not a model's own. Give the "
                "model's Hub id: owner/name, or owner/name@revision."
            )
        if len(where) > 1 and where[0] in _AT_REVISION:
            pull = where[1] == "refs"  # a pull request's has slashes: refs/pr/1
            return cls(found.name, "/".join(where[1:4]) if pull else where[1])
        return found


def locate(model: str | Place) -> Place:
    """Where a model is: as `resolve`, but an address such as s3://bucket/model is left there.

    Raises:
        UnmergeableError: as `resolve`; an address of an unknown kind.
    """
    if isinstance(model, RemotePath):
        return model
    if is_url(model) and HubId.of(str(model)) is None:
        return RemotePath.of(str(model))
    return resolve(model)


def resolve(model: str | Path) -> Path:
    """The folder of a model on this machine: itself, or a download of that id.

    Args:
        model: a path; owner/name or owner/name@revision; or the address of its page on the Hub.

    Raises:
        InputError: neither a folder nor an id; an address.
        DownloadError: the Hub does not have it, or cannot be reached.
    """
    path = Path(model)
    if not is_url(model) and path.exists():
        return path
    found = HubId.of(model) if isinstance(model, str) else None
    if found is not None:
        return _download(found)
    if is_url(model):
        raise InputError(
            f"{model} is not on this machine, and what was asked for needs a folder here. "
            "Download it first."
        )
    raise InputError(f"{model} is neither a folder nor a Hub id such as owner/name.")


def _download(model: HubId) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model.name,
                revision=model.revision,
                allow_patterns=hub_patterns(),
                ignore_patterns=_OTHER_WEIGHTS,
            )
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"no folder {model.name}, and the Hub did not give the Hub id {model.name}: {reason}"
        ) from None
