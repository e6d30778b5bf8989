"""What one model class makes of its family's rows, and what its users read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.declaration import GUIDE
from unmergeable.architectures.rules import ClassRule, Declaration, TensorRule
from unmergeable.errors import InputError, UnsupportedError, quoted

if TYPE_CHECKING:
    from unmergeable.checkpoint.folder import ModelFolder

# Files of sentence-transformers: anyone who has them beside a model reads its hidden states.
_EMBEDDERS = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


def embedder_of(folder: ModelFolder) -> str:
    """The file that makes a folder an embedding model; empty if there is none."""
    return next((name for name in _EMBEDDERS if name in folder.companions), "")


@dataclass(frozen=True)
class ModelClass:
    """A class of transformers, for the weights of one folder.

    Attributes:
        name: as the config has it; empty if it names none.
        rules: the rows of its tensors.
        exposed: by name, why a space that may move in other classes stays.
        headless: why its users read hidden states, although the class has a head; empty if they do
            not.
    """

    name: str
    rules: list[TensorRule]
    exposed: Mapping[str, str]
    headless: str = ""

    @classmethod
    def of(
        cls,
        declaration: Declaration,
        config: Mapping[str, Any],
        tensors: Iterable[str],
        embedder: str = "",
    ) -> ModelClass:
        """The class that a config names.

        Args:
            declaration: of the family.
            config: its config.json.
            tensors: the names of its weights.
            embedder: the file beside them that makes it an embedding model; empty if none does.

        Raises:
            InputError: something else where the name should be.
            UnsupportedError: a class that nobody has declared.
        """
        name = _named(config)
        if not name:
            return cls._unnamed(declaration)
        if name not in declaration.classes:
            raise UnsupportedError(
                f"the model class {quoted(name)} is not declared for {declaration.family}. "
                f"Declared: {', '.join(declaration.classes)}. To add it, see {GUIDE}."
            )
        rule = declaration.classes[name]
        trunk = [row for row in declaration.tensors if not row.begins_with(rule.lacks)]
        heads, outputs, headless = list(rule.tensors), set(rule.outputs), ""
        if _is_bare(declaration, rule, list(tensors)):
            headless = f"the weights are the bare model's, without the head of {name}"
            heads = [replace(row, optional=True) for row in heads]
        if embedder:
            headless = f"{embedder} makes it an embedding model"
        if headless:
            outputs |= declaration.handed_out
        why = f"{headless or name}{', and' if headless else ''} hands it to its users as output"
        return cls(name, trunk + heads, dict.fromkeys(outputs, why), headless)

    @classmethod
    def _unnamed(cls, declaration: Declaration) -> ModelClass:
        """Nothing says what the model hands out, so whatever any class hands out stays."""
        lacks = tuple(start for rule in declaration.classes.values() for start in rule.lacks)
        rules = [
            replace(row, optional=True) if row.begins_with(lacks) else row
            for row in declaration.tensors
        ]
        why = "config.json names no model class, and a bare model hands it to its users as output"
        return cls("", rules, dict.fromkeys(declaration.handed_out, why))


def _named(config: Mapping[str, Any]) -> str:
    named = config.get("architectures") or [""]
    if not isinstance(named, list) or not isinstance(named[0], str | None):
        raise InputError(f'config.json: "architectures" is {quoted(named)}, not a list of names.')
    return named[0] or ""


def _is_bare(declaration: Declaration, rule: ClassRule, tensors: list[str]) -> bool:
    """Whether the weights are those of a bare model, and the head of the class is not there.

    A bare model is stored without its trunk's prefix. A language model with tied embeddings that is
    stored so as a rule is none.
    """
    prefixes = tuple({row.prefix for row in declaration.tensors if row.prefix})
    needed = any(not row.optional for row in rule.tensors)
    return (
        bool(prefixes and tensors and rule.tensors)
        and (needed or not declaration.unprefixed)
        and not any(name.startswith(prefixes) for name in tensors)
        and not any(row.match(name) is not None for name in tensors for row in rule.tensors)
    )
