"""Whether models can be merged at all: what their configs and tokenizers must have in common."""

from __future__ import annotations

from collections.abc import Sequence

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError
from unmergeable.merging import config_differences, tokenizer_differences

_MOST = 6  # differences named in one sentence


def check_agreement(
    first: ModelFolder, other: ModelFolder, *, allow_mismatch: bool
) -> tuple[str, ...]:
    """Compares what decides what weights mean, beside their shapes.

    Args:
        first: the model whose config and tokenizer the merge gets.
        other: another input.
        allow_mismatch: go on in spite of what decides, and only say it.

    Returns:
        Sentences about what differs and may do so.

    Raises:
        InputError: what differs and may not, by key with both values.
    """
    notes = []
    both = f"{first.path} and {other.path}"
    if settings := config_differences.differences(first.config, other.config):
        sentence = f"the configs of {both} differ in {_listed(settings)}"
        if settings[0].decides and not allow_mismatch:
            fits = all(other.shapes.get(name, size) == size for name, size in first.shapes.items())
            raise InputError(
                f"{sentence}, so that equal weights compute different things. Merge models of "
                f"one architecture{', or pass --allow-mismatch' * fits}."
            )
        notes.append(f"{sentence}; the merge has the first one's.")
    if tokens := tokenizer_differences.differences(first, other):
        sentence = f"the tokenizers of {both} disagree: {_listed(tokens)}"
        if tokens[0].decides and not allow_mismatch:
            raise InputError(
                f"{sentence}. Bring the rows of their embeddings into one order first (mergekit's "
                "tokenizer_source does), or pass --allow-mismatch."
            )
        notes.append(f"{sentence}; the merge has the first one's.")
    return tuple(notes)


def _listed(found: Sequence[object]) -> str:
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(map(str, found[:_MOST])) + more
