"""The beginning of a data file for a model that nobody has declared yet.

`python -m unmergeable.architectures.draft FOLDER [FILE]` writes one: which data file is nearest by
the names of its tensors, which of its rows the folder lacks, and a row for every tensor that is
new, with its shape and what it could be. Only headers are read. What it says about names and shapes
is so; which space an axis lives in, and which group that space carries, nobody can read from those.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unmergeable.architectures.declaration import GUIDE, load, own_table, stems
from unmergeable.architectures.placing import ModelSpaces
from unmergeable.architectures.rules import Declaration, TensorRule
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.errors import InputError, UnmergeableError

_SUFFIX = re.compile(r"(For[A-Z]\w*|LMHeadModel|MTModel|EncoderModel|Model)$")


@dataclass(frozen=True)
class Kind:
    """The tensors whose names differ in their numbers alone.

    Attributes:
        template: the name, with braces for numbers.
        name: of one of them.
        shape: its dimensions.
    """

    template: str
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Nearest:
    """A data file, and what of it a folder has.

    Attributes:
        stem: its name.
        rule: its declaration, under the folder's config.
        rows: the row that each kind of tensor fits, by template.
        lacking: required rows of its trunk that no tensor fits.
        idle: the number of optional ones.
    """

    stem: str
    rule: Declaration
    rows: Mapping[str, TensorRule]
    lacking: tuple[TensorRule, ...]
    idle: int

    @property
    def score(self) -> float:
        """How near it is: what fits, less a half or a tenth of what it has besides."""
        return len(self.rows) - len(self.lacking) / 2 - self.idle / 10


def draft(folder: ModelFolder, among: Iterable[str] = ()) -> str:
    """The beginning of a data file, as TOML.

    Args:
        folder: a model.
        among: the data files that may be nearest; default: all but the model type's own.

    Raises:
        InputError: a folder without a model type.
    """
    model_type = folder.config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{folder.path}/config.json names no model_type.")
    kinds = kinds_of(folder.shapes)
    names = tuple(among) or tuple(s for s in stems() if load(s).model_type != model_type)
    own = {stem: own_table(stem) for stem in names}
    # Of equals, one that stands for itself, or that most are like.
    best = max(
        (near(stem, kinds, folder.config) for stem in names),
        key=lambda one: (
            one.score,
            "like" not in own[one.stem],
            sum(table.get("like") == one.stem for table in own.values()),
        ),
    )
    return "\n".join(_lines(folder, model_type, kinds, best)) + "\n"


def kinds_of(shapes: Mapping[str, tuple[int, ...]]) -> list[Kind]:
    """The kinds of tensors in a folder, in the order of their names."""
    found: dict[str, Kind] = {}
    for name in sorted(shapes):
        template = name
        for slot in ("{layer}", "{expert}"):
            template = re.sub(r"\.\d+\.", f".{slot}.", template, count=1)
        found.setdefault(template, Kind(template, name, tuple(shapes[name])))
    return list(found.values())


def near(stem: str, kinds: Iterable[Kind], config: Mapping[str, object]) -> Nearest:
    """What of a data file a folder has; the first part of a name may be another."""
    rule = load(stem).under(config)
    rows = [*rule.tensors, *(row for one in rule.classes.values() for row in one.tensors)]
    fitting = {}
    for kind in kinds:
        spellings = (kind.name, kind.name.partition(".")[2])
        for row in rows:
            named = any(row.match(one) is not None for one in spellings)
            if named and len(row.axes) == len(kind.shape):
                fitting[kind.template] = row
                break
    used = {id(row) for row in fitting.values()}
    others = [row for row in rule.tensors if id(row) not in used]
    lacking = tuple(row for row in others if not row.optional)
    return Nearest(stem, rule, fitting, lacking, len(others) - len(lacking))


def _lines(folder: ModelFolder, model_type: str, kinds: list[Kind], best: Nearest) -> Iterator[str]:
    axes, trunk = _sized(best, folder.config), _trunk(kinds)
    yield f"# {len(best.rows)} of {len(kinds)} kinds of tensors have names of {best.stem}.toml."
    yield "# The same name may hide another norm, activation or rotary layout: see its code."
    yield f"# How to go on: {GUIDE}."
    yield f'family = "{model_type}"'
    yield f'model_type = "{model_type}"'
    yield f'like = "{best.stem}"'
    if trunk != next((row.prefix for row in best.rule.tensors), ""):
        yield f'trunk = "{trunk}"'
    if best.lacking:
        gone = ", ".join(f'"{row.templates[0]}"' for row in best.lacking)
        yield f"without = [{gone}]"
    for kind in kinds:
        if kind.template in best.rows:
            yield from _other_size(kind, best, axes)
    new = [kind for kind in kinds if kind.template not in best.rows]
    heads = [kind for kind in new if not kind.template.startswith(trunk)]
    if len(new) > len(heads):
        yield from ("", "[tensors]")
        yield from (_row(kind, trunk, axes) for kind in new if kind not in heads)
    name = str((folder.config.get("architectures") or ["NAME"])[0])
    head = [kind for kind in kinds if kind in heads or _of_head(kind, best)]
    if alike := _class_like(name, head, best):
        yield from ("", "[classes]", f'{name} = {{ like = "{alike}" }}')
    else:
        yield from ("", f"[classes.{name}.tensors]")
        yield from (_row(kind, "", axes) for kind in heads)


def _of_head(kind: Kind, best: Nearest) -> bool:
    """Whether the row that it fits is of a head."""
    return kind.template in best.rows and best.rows[kind.template] not in best.rule.tensors


def _class_like(name: str, heads: list[Kind], best: Nearest) -> str:
    """The class with the same head, of the same sort if there is one; empty if none has it."""
    suffix = _SUFFIX.search(name)
    fits = [
        one
        for one, rule in best.rule.classes.items()
        if all(any(row.match(kind.name) is not None for row in rule.tensors) for kind in heads)
    ]
    same = [one for one in fits if suffix and one.endswith(suffix[0])]
    return min(same or (fits if heads else []), key=len, default="")


def _other_size(kind: Kind, best: Nearest, axes: Mapping[str, int | None]) -> Iterator[str]:
    """What to look at where a tensor of a known name has a shape that its row does not make."""
    text = [str(axis) for axis in best.rows[kind.template].axes]
    pairs = zip(kind.shape, (axes[one] for one in text), strict=True)
    if any(known not in (None, size) for size, known in pairs):
        wanted = ", ".join("any" if axes[one] is None else str(axes[one]) for one in text)
        yield f'# Look at {kind.template}: {kind.shape}, where "{" ".join(text)}" is ({wanted}).'


def _row(kind: Kind, trunk: str, axes: Mapping[str, int | None]) -> str:
    """A row to be filled in, and the axes of the nearest file that have its sizes."""
    guesses = []
    for size in kind.shape:
        known = (text for text, length in axes.items() if length == size)
        fits = dict.fromkeys(re.sub(r"[*|]", "", text) for text in known)
        guesses.append(f"{size}: {' or '.join(fits) or '?'}")
    return f'"{kind.template.removeprefix(trunk)}" = "?"  # {"; ".join(guesses)}'


def _sized(best: Nearest, config: Mapping[str, object]) -> dict[str, int | None]:
    """The length of every axis in the nearest file, as far as the config says it."""
    spaces = ModelSpaces(best.rule.spaces, config, {})
    found: dict[str, int | None] = {}
    heads = (row for one in best.rule.classes.values() for row in one.tensors)
    for row in (*best.rule.tensors, *heads):
        for axis in row.axes:
            try:
                found[str(axis)] = axis.size(spaces)
            except UnmergeableError:  # the config calls it something else
                found[str(axis)] = None
    return found


def _trunk(kinds: Iterable[Kind]) -> str:
    """The first part of the names of layers, "model." say, or nothing."""
    for kind in kinds:
        if "{layer}" in kind.template:
            first, dot, rest = kind.template.partition(".")
            return first + dot if not rest.startswith("{layer}") else ""
    return ""


def main() -> None:
    """Prints the draft for the folder whose path is given, or writes it to a new file."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m unmergeable.architectures.draft FOLDER [FILE]")
    try:
        text = draft(open_folder(sys.argv[1]))
    except UnmergeableError as error:
        sys.exit(str(error))
    if len(sys.argv) == 2:
        print(text, end="")
        return
    try:
        # Not by the shell: an empty data file in its place would be read, and refused.
        with Path(sys.argv[2]).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        sys.exit(f"cannot write {sys.argv[2]}: {error.strerror}.")


if __name__ == "__main__":
    main()
