"""What an adapter's config and texts say of the model that it was on: it is not published along.

PEFT writes the model's name into the config and the model card: of a folder on the owner's disk, or
of the open model, on which a carried adapter does not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unmergeable.checkpoint.adapter_config import CONFIG
from unmergeable.checkpoint.folder import ModelFolder

_CARD = "README.md"
_TEXTS = (".md", ".txt", ".json", ".yaml", ".yml", ".rst", ".jinja", ".py")
_PATH = re.compile(r"(?:/|~|\.{1,2}/|[A-Za-z]:[\\/]|file:).+", re.DOTALL)
_FENCE = re.compile(r"\A(---[ \t]*\r?\n)(.*?\n)(---[ \t]*\r?\n?)", re.DOTALL)
# What PEFT writes of a model that has no name.
_EMPTY = re.compile(r"(base_model: (''|\"\")|- 'base_model:adapter:')\s*")


def public_name(adapter: ModelFolder) -> str | None:
    """The name of the model that an adapter's config says it is for; None if it is a path."""
    base = adapter.config.get("base_model_name_or_path")
    if not isinstance(base, str) or _PATH.fullmatch(base) or Path(base).exists():
        return None
    return base


def renamed_texts(adapter: ModelFolder, model: str | None) -> dict[str, bytes]:
    """The companions that speak of the adapter's model, as they are to be written.

    Args:
        adapter: its folder.
        model: the name of the one that it is for now; None if that cannot be told to everyone.

    Returns:
        By name, the new content of each that is not to be copied as it is.
    """
    base = adapter.config.get("base_model_name_or_path")
    base = base if isinstance(base, str) else ""
    found = {}
    for name in adapter.companions:
        path = PurePosixPath(name)
        if name != CONFIG and path.suffix.lower() not in _TEXTS:
            continue
        old = adapter.read_companion(name)
        new = _text(old, path, base, model)
        if name == CONFIG:
            config = _config(adapter.config, model)
            new = old if config == adapter.config else _as_peft_writes(config)
        if new != old:
            found[name] = new
    return found


def _config(config: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """The config for another model."""
    new = dict(config)
    if new.get("base_model_name_or_path"):
        new["base_model_name_or_path"] = model
    if new.get("revision") and model != config.get("base_model_name_or_path"):
        new["revision"] = None
    return {name: _without_paths(value) for name, value in new.items()}


def _as_peft_writes(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config, indent=2, sort_keys=True).encode()


def _without_paths(value: Any) -> Any:
    """The same with no path of the owner's machine in it, and no module of a model's own code."""
    if isinstance(value, dict):
        own = str(value.get("parent_library", "")).startswith("transformers_modules")
        return None if own else {k: _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return None if isinstance(value, str) and _PATH.fullmatch(value) else value


def _text(content: bytes, path: PurePosixPath, base: str, model: str | None) -> bytes:
    """A card or another text with the new name in place of the old one."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return content
    if path.name.lower() == _CARD.lower() and (front := _FENCE.match(text)):
        text = front[1] + _front_matter(front[2], model) + front[3] + text[front.end() :]
    # A bare word, such as "gpt2", may stand in a text for something else.
    if "/" in base.strip("./") or "\\" in base:
        parts = rf"(?<![\w.-]){re.escape(base.rstrip('/'))}(?![\w-])"
        text = re.sub(parts, (model or "").replace("\\", r"\\"), text)
    return text.encode()


def _front_matter(text: str, model: str | None) -> str:
    """A card's metadata: the key base_model, with its list, and the tags made from it."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if inside and (line[:1].isspace() or line.startswith("-")):
            continue
        inside = line.startswith(("base_model:", "base_model_relation:"))
        if _EMPTY.fullmatch(line):
            lines.append(line)
        elif line.startswith("base_model:") and model:
            lines.append(f"base_model: {model}\n")
        elif not inside and "base_model:" not in line:
            lines.append(line)
    return "".join(lines)
