"""The tokenizers of a merge's inputs: what the rows of embeddings stand for."""

import json
import re
from pathlib import Path

import pytest

from tests.merging.small import pair
from tests.tiny import add_tokenizer
from unmergeable.errors import InputError
from unmergeable.merging.merge import merge

HALF = {"weight": 0.5}


def _fast(vocabulary, added=(), **model) -> str:
    added = [{"id": row, "content": token, "special": True} for row, token in added]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0", **model}
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": None, "model": model})


WORDS = {f"w{n}": n for n in range(64)}
SWAPPED = {**WORDS, "w3": 4, "w4": 3}
LINES = "\n".join(WORDS)
TOKENIZERS = {
    "another vocabulary": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast({f"w{63 - n}": n for n in range(64)})},
        r"number 64 of 64 tokens otherwise, such as 0 \('w0' and 'w63'\)",
        True,
    ),
    "two words": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast(SWAPPED)},
        r"number 2 of 64 tokens otherwise, such as 3 \('w3' and 'w4'\)",
        True,
    ),
    "scored pieces": (
        {"tokenizer.json": _fast([["a", -1.0], ["b", -2.0]])},
        {"tokenizer.json": _fast([["b", -1.0], ["a", -2.0]])},
        "number 2 of 2 tokens otherwise",
        True,
    ),
    "a table of words": (
        {"vocab.json": json.dumps(WORDS), "merges.txt": ""},
        {"vocab.json": json.dumps(SWAPPED), "merges.txt": ""},
        "number 2 of 64 tokens otherwise",
        True,
    ),
    "a list of words": (
        {"vocab.txt": LINES + "\n"},
        {"vocab.txt": LINES.replace("w5\n", "wx\n")},
        r"number 1 of 64 tokens otherwise, such as 5 \('w5' and 'wx'\)",
        True,
    ),
    "two kinds of files": (
        {"tokenizer.json": _fast(WORDS)},
        {"vocab.json": json.dumps(SWAPPED)},
        "number 2 of 64 tokens otherwise",
        True,
    ),
    "added tokens": (
        {"tokenizer.json": _fast(WORDS, [(64, "<a>")])},
        {"tokenizer.json": _fast(WORDS, [(64, "<b>"), (65, "<c>")])},
        r"number 1 of 65 added tokens otherwise, such as 64 \('<a>' and '<b>'\), one has 1 tokens",
        False,
    ),
    "tokens added later": (
        {"vocab.txt": LINES, "added_tokens.json": '{"<a>": 64}'},
        {"vocab.txt": LINES, "added_tokens.json": '{"<b>": 64}'},
        "number 1 of 65 added tokens otherwise",
        False,
    ),
    "tokens added in settings": (
        {"vocab.txt": LINES},
        {
            "vocab.txt": LINES,
            "tokenizer_config.json": '{"added_tokens_decoder": {"64": {"content": "<b>"}}}',
        },
        r"one has 1 tokens that the other lacks, such as 64 \('<b>'\)",
        False,
    ),
    "merges": (
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a b"])},
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a c"])},
        "the merges of their tokenizers differs",
        False,
    ),
    "merges in a file": (
        {"vocab.json": json.dumps(WORDS), "merges.txt": "a b"},
        {"vocab.json": json.dumps(WORDS), "merges.txt": "a c"},
        r"the tokenizer file merges\.txt differs",
        False,
    ),
    "sentencepiece": (
        {"tokenizer.model": "\1\2"},
        {"tokenizer.model": "\1\3"},
        r"the tokenizer file tokenizer\.model differs",
        False,
    ),
    "kinds without anything in common": (
        {"tokenizer.model": "\1"},
        {"tokenizer.json": _fast(WORDS)},
        "kinds that cannot be compared",
        False,
    ),
    "none in one": ({"tokenizer.json": _fast(WORDS)}, {}, r"two has no tokenizer", False),
    "none in the other": ({}, {"tokenizer.model": "x"}, r"one has no tokenizer", False),
    "a damaged one": (
        {"tokenizer.json": "[" * 10**5},
        {"tokenizer.json": _fast(WORDS)},
        r"'tokenizer\.json' cannot be read",
        False,
    ),
    "one that would fill the memory": (
        {"tokenizer.json": "[" + "[]," * 4_000_000 + "[]]"},
        {"tokenizer.json": _fast(WORDS)},
        r"'tokenizer\.json' cannot be read",
        False,
    ),
}
ALIKE = {
    "none": ({}, {}),
    "the same": ({"tokenizer.json": _fast(WORDS)}, {"tokenizer.json": _fast(WORDS)}),
    "another chat": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast(WORDS), "tokenizer_config.json": '{"chat_template": "x"}'},
    ),
    "two kinds of files": (
        {"tokenizer.json": _fast(WORDS)},
        {"vocab.txt": LINES.replace("\n", "\r\n") + "\r\n"},
    ),
    "two spellings of merges": (
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a b"])},
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=[["a", "b"]])},
    ),
    "a fast one besides": (
        {"tokenizer.model": "x", "tokenizer.json": _fast(WORDS)},
        {"tokenizer.model": "x"},
    ),
    "odd values": (
        {"tokenizer.json": '{"model": 5, "added_tokens": [5, {}]}'},
        {"tokenizer.json": '{"model": {"vocab": [5, []]}, "added_tokens": {"a": 1}}'},
    ),
}


def _with_tokenizers(folder: Path, *tokenizers) -> list[Path]:
    folders = pair(folder)
    for path, files in zip(folders, tokenizers, strict=True):
        for name, content in files.items():
            (path / name).write_bytes(content.encode())
    return folders


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_disagree_are_refused_or_noted(tmp_path, case):
    *tokenizers, said, decides = TOKENIZERS[case]
    folders = _with_tokenizers(tmp_path, *tokenizers)
    if decides:
        with pytest.raises(InputError, match=rf"{said}.*--allow-mismatch") as refused:
            merge(folders, tmp_path / "out", "linear", parameters=HALF)
        assert len(str(refused.value)) < 1500
    merged = merge(
        folders, tmp_path / "out", "linear", parameters=HALF, allow_mismatch=bool(decides)
    )
    (note,) = merged.notes
    assert re.search(said, note)


@pytest.mark.parametrize("case", ALIKE)
def test_tokenizers_that_agree_are_not_mentioned(tmp_path, case):
    folders = _with_tokenizers(tmp_path, *ALIKE[case])
    assert merge(folders, tmp_path / "out", "linear", parameters=HALF).notes == ()


def test_a_real_tokenizer_agrees_with_itself(tmp_path):
    folders = [add_tokenizer(folder) for folder in pair(tmp_path)]
    assert merge(folders, tmp_path / "out", "linear", parameters=HALF).notes == ()
