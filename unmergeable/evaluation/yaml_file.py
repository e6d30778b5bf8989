"""A YAML file that people write, read so that what is wrong in it is told with its line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.small_files import read_small
from unmergeable.errors import InputError, clip, quoted
from unmergeable.extras import optional

MAX_FILE, MAX_PARTS = 1 << 20, 1 << 17  # bytes of a file, values in it
LINE = "\0line"


@dataclass(frozen=True)
class YamlFile:
    """A YAML document whose mappings remember the line they begin on.

    Attributes:
        path: the file.
        content: what it holds; each mapping has its line under `LINE`.
    """

    path: Path
    content: Any

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Reads a file.

        Raises:
            InputError: it cannot be read, is not YAML, or would fill the memory.
        """
        yaml = optional("yaml")

        class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
            def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
                mapping: dict[str, Any] = super().construct_mapping(node, deep=True)
                mapping[LINE] = node.start_mark.line + 1
                return mapping

        Loader.add_constructor(
            yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
            lambda loader, node: loader.construct_mapping(node, deep=True),
        )
        try:
            content = yaml.load(read_small(path, MAX_FILE).decode("utf-8"), Loader=Loader)
            _check_parts(content)
            return cls(path, content)
        except RecursionError:
            raise InputError(f"{path} is not read: it is nested too deeply.") from None
        except (yaml.YAMLError, ValueError, TypeError) as error:  # of numbers, dates and keys, too
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None

    def error(self, mapping: Mapping[str, Any], sentence: str) -> InputError:
        """What is wrong in a mapping, as an error that names the file and the line."""
        return InputError(f"{self.path}, line {mapping.get(LINE, 1)}: {sentence}.")

    def mapping(
        self, value: Any, what: str, needed: Sequence[str], optional_: Sequence[str]
    ) -> dict[str, Any]:
        """A mapping that has the needed fields and none that is unknown.

        Args:
            value: what is to be one.
            what: what it is called.
            needed: fields that it must have.
            optional_: fields that it may have besides.

        Raises:
            InputError: says which field is missing, empty or unknown, and which is near it.
        """
        if not isinstance(value, dict):
            found = quoted(value)
            raise InputError(f"{self.path}: {what} must be a mapping of fields, not {found}.")
        fields = [*needed, *optional_]
        unknown = [field for field in value if field not in {*fields, LINE}]
        for field in needed:
            if value.get(field) in (None, "", []):
                state = "empty" if field in value else "missing"
                raise self.error(
                    value, f"{what}: the field {field!r} is {state}{_meant(field, unknown)}"
                )
        if unknown:
            raise self.error(
                value,
                f"{what}: the field {quoted(unknown[0])} is unknown{_meant(unknown[0], fields)}; "
                f"there is {', '.join(fields)}",
            )
        return value


def _meant(name: object, others: Sequence[object]) -> str:
    """The one of other names that is near a name, as a question; empty if none is."""
    near = difflib.get_close_matches(clip(name), [clip(other) for other in others], 1)
    return f" (is it {near[0]!r}?)" if near else ""


def _check_parts(content: Any) -> None:
    """Refuses a few lines of aliases of aliases, which stand for more than anyone can print.

    Raises:
        ValueError: says so.
    """
    left, parts = [content], 0
    while left:
        value = left.pop()
        parts += 1
        if parts > MAX_PARTS:
            raise ValueError("its aliases stand for too much")
        if isinstance(value, dict | list):
            left += [*value, *value.values()] if isinstance(value, dict) else value
