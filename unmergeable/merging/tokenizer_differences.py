"""What the rows of two models' embeddings stand for, as their tokenizers' files say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from unmergeable.checkpoint.companions import MAX_COMPANION
from unmergeable.checkpoint.digest import digest_of
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.remote import RemotePath
from unmergeable.errors import InputError, quoted

_FAST = "tokenizer.json"
_SLOW = ("vocab.json", "vocab.txt")
_ADDED = ("added_tokens.json", "tokenizer_config.json")
# Compared byte by byte: how text is split, and vocabularies in formats of their own.
_BINARY = (
    "tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v7", "spiece.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "source.spm", "target.spm",
    "tekken.json", "tiktoken.model", "qwen.tiktoken", "bpe.codes", "vocab.bpe", "merges.txt",
)  # fmt: skip
# Commas and brackets in a file that is parsed: each costs Python a hundred bytes.
_MANY = 6_000_000


@dataclass
class Tokenizer:
    """What a folder's files say of its tokenizer.

    Attributes:
        tokens: by the row that each has.
        added: rows of tokens that were added to a vocabulary.
        whole: whether a vocabulary was found, and not only what was added to one.
        splitting: how text becomes tokens, by the part of the file that says it.
        binary: the digests of files that are not understood here.
        unread: files that cannot be read.
    """

    tokens: dict[int, str] = field(default_factory=dict)
    added: set[int] = field(default_factory=set)
    whole: bool = False
    splitting: dict[str, Any] = field(default_factory=dict)
    binary: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.binary or self.unread)

    def add(self, entries: Iterable[tuple[Any, Any]], *, late: bool) -> None:
        """Takes over pairs of a row and a token; what is neither is passed over."""
        for row, token in entries:
            if type(row) is int and isinstance(token, str):
                self.tokens[row] = token
                if late:
                    self.added.add(row)
                else:
                    self.whole = True


@dataclass(frozen=True)
class TokenDifference:
    """Something on which two tokenizers disagree.

    Attributes:
        what: a clause, such as "they number 3 of 64 tokens otherwise".
        decides: whether rows of the embeddings mean other tokens.
    """

    what: str
    decides: bool

    def __str__(self) -> str:
        return self.what


def differences(ours: ModelFolder, theirs: ModelFolder) -> list[TokenDifference]:
    """Compares two tokenizers.

    Args:
        ours: a model's folder.
        theirs: another one's.

    Returns:
        The most telling first; empty if they agree, or if neither folder has one.
    """
    names = [_FAST, *_SLOW, *_ADDED, *_BINARY]
    if all(_content(ours, name) == _content(theirs, name) for name in names):
        return []
    mine, yours = _read(ours), _read(theirs)
    if not mine and not yours:
        return []
    if not mine or not yours:
        return [TokenDifference(f"{(theirs if mine else ours).path} has no tokenizer", False)]
    found = [
        TokenDifference(f"{quoted(name)} cannot be read", False)
        for name in dict.fromkeys((*mine.unread, *yours.unread))
    ]
    found += _numbered(mine, yours)
    comparable = (mine.whole and yours.whole) or mine.binary.keys() & yours.binary.keys()
    if not comparable and not mine.unread and not yours.unread:
        found.append(
            TokenDifference("their tokenizers are of kinds that cannot be compared", False)
        )
    for part in dict.fromkeys((*mine.splitting, *yours.splitting)):
        both = part in mine.splitting and part in yours.splitting
        if both and mine.splitting[part] != yours.splitting[part]:
            found.append(TokenDifference(f"the {part} of their tokenizers differs", False))
    for name in _BINARY:
        contents = [one.binary.get(name) for one in (mine, yours)]
        if None not in contents and contents[0] != contents[1]:
            found.append(TokenDifference(f"the tokenizer file {name} differs", False))
    return sorted(found, key=lambda one: not one.decides)


def _numbered(mine: Tokenizer, yours: Tokenizer) -> list[TokenDifference]:
    """The rows that mean one token here and another one there, and those with one here alone."""
    found = []
    added = mine.added | yours.added
    shared = mine.tokens.keys() & yours.tokens.keys()
    other = sorted(row for row in shared if mine.tokens[row] != yours.tokens[row])
    for what, rows, decides in (
        ("tokens", [row for row in other if row not in added], True),
        ("added tokens", [row for row in other if row in added], False),
    ):
        if rows:
            pair = " and ".join(quoted(one.tokens[rows[0]]) for one in (mine, yours))
            clause = f"they number {len(rows)} of {len(shared)} {what} otherwise"
            found.append(TokenDifference(f"{clause}, such as {rows[0]} ({pair})", decides))
    alone = sorted(mine.tokens.keys() ^ yours.tokens.keys())
    if alone and mine.whole and yours.whole:
        token = quoted(mine.tokens.get(alone[0], yours.tokens.get(alone[0])))
        clause = f"one has {len(alone)} tokens that the other lacks, such as {alone[0]} ({token})"
        found.append(TokenDifference(clause, False))
    return found


def _read(folder: ModelFolder) -> Tokenizer:
    """What the files of a folder say, the one that transformers takes first, and no other."""
    read = Tokenizer()
    fast = _json(folder, _FAST, read)
    if isinstance(fast, Mapping):
        model = fast.get("model")
        model = model if isinstance(model, Mapping) else {}
        read.add(_rows(model.get("vocab")), late=False)
        read.splitting = {name: fast.get(name) for name in ("normalizer", "pre_tokenizer")}
        if isinstance(merges := model.get("merges"), list):
            read.splitting["merges"] = [m if isinstance(m, str) else _pair(m) for m in merges]
        added = fast.get("added_tokens")
        for one in added if isinstance(added, list) else []:
            if isinstance(one, Mapping):
                read.add([(one.get("id"), one.get("content"))], late=True)
    else:
        read.add(_rows(_json(folder, "vocab.json", read)), late=False)
        if not read.tokens and (lines := _content(folder, "vocab.txt")) is not None:
            text = lines.decode("utf-8", "replace").replace("\r\n", "\n")
            read.add(enumerate(text.removesuffix("\n").split("\n")), late=False)
    read.add(_rows(_json(folder, "added_tokens.json", read)), late=True)
    settings = _json(folder, "tokenizer_config.json", read)
    decoder = settings.get("added_tokens_decoder") if isinstance(settings, Mapping) else None
    for row, one in decoder.items() if isinstance(decoder, Mapping) else ():
        if row.isdecimal() and len(row) < 10 and isinstance(one, Mapping):
            read.add([(int(row), one.get("content"))], late=True)
    for name in _BINARY:
        split = name == "merges.txt" and "merges" in read.splitting
        if not split and (content := _content(folder, name)) is not None:
            read.binary[name] = digest_of(content)
    return read


def _rows(vocabulary: Any) -> Iterable[tuple[Any, Any]]:
    """The pairs of row and token in a table, or in a list of tokens with their scores."""
    if isinstance(vocabulary, Mapping):
        return ((row, token) for token, row in vocabulary.items())
    if isinstance(vocabulary, list):
        return (
            (row, one[0]) for row, one in enumerate(vocabulary) if isinstance(one, list) and one
        )
    return ()


def _pair(merge: Any) -> str:
    """Two tokens that become one, as older files write it."""
    return " ".join(map(str, merge)) if isinstance(merge, list) else ""


def _json(folder: ModelFolder, name: str, read: Tokenizer) -> Any:
    content = _content(folder, name)
    if content is None:
        return None
    try:
        if sum(map(content.count, (b",", b"[", b"{"))) > _MANY:
            raise ValueError("too much to hold")
        return json.loads(content)
    except (ValueError, RecursionError):
        read.unread.append(name)
        return None


def _content(folder: ModelFolder, name: str) -> bytes | None:
    """A file of a folder; None if there is none, or none that would be copied, for its size.

    Raises:
        InputError: one that cannot be read.
    """
    path = folder.path / name
    try:
        if not path.is_file():
            return None
        size = path.measure()[0] if isinstance(path, RemotePath) else path.stat().st_size
        return path.read_bytes() if size <= MAX_COMPANION else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
