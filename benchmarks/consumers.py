"""A locked model beside the open one in programs other than transformers: do they notice?

    python benchmarks/consumers.py                                    # what is installed
    python benchmarks/consumers.py --converter convert_hf_to_gguf.py  # llama.cpp's, too
    python benchmarks/consumers.py --only torch-int8 --write          # and put it into the docs

For each program and format: SmolLM2, open and under three locks, is converted by the
program's own tool, and read on the same tokens: dictionary definitions for perplexity and
divergences, eight prompts for greedy continuations. What a format rounds, it rounds in other places
of a locked model; so besides locked against open the table says how far each is from the open model
in float32.

A program that is not installed is named and left out. What was measured is kept in the cache, so
that one can be measured at a time; `--write` puts down all that is kept. llama.cpp's binding is
`pip install llama-cpp-python`; its converter comes with llama.cpp's source (`vendor/llama.cpp` in
the binding's source distribution), of which nothing is copied here.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from consumer_programs import (
    CONTINUED,
    PROGRAMS,
    Absent,
    Folders,
    Reading,
    Readings,
    Sample,
    load,
    transformers_reading,
)

import unmergeable
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.evaluation import store
from unmergeable.verification.inputs import PROMPTS

DOCS = Path(__file__).parents[1] / "docs" / "consumers.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LOCKS: dict[str, dict[str, str]] = {
    "lossless": {},
    "with powers of two": {"scales": "true"},
    "general": {"kind": "general"},
}
# A key and a line of its own, so that a run can be repeated.
SECRET, LINE = bytes(range(32)), "consumers"
PASSAGES, LENGTH = 4, 128
HEAD = (
    "| program and format | lock | perplexity, open | locked | same greedy text | same top choice "
    "| KL, locked from open | KL, open from float32 | locked from float32 |"
)


def main() -> None:
    """Measures what is asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    faulthandler.enable()  # a program that dies of a signal within this process says so
    with tempfile.TemporaryDirectory(prefix="unmergeable-") as scratch:
        folders, bits = the_models(Path(scratch))
        sample = the_sample(folders["open"])
        reference = transformers_reading(load(folders["open"]), sample)
        about = f"{len(sample.targets)} positions, {CONTINUED} tokens after each prompt"
        for name in options.only:
            program = PROGRAMS[name]
            try:
                versions = program.versions()
                readings = program.read(folders, sample, Path(scratch), options.converter)
                rows = []
                for row in measured(readings, sample, reference):
                    rows.append(row)
                    kept = {"versions": versions, "sample": about, "bits": bits, "rows": rows}
                    store.write_json(store.root() / "consumers" / f"{name}.json", kept)
            except Absent as missing:
                print(f"{name}: not run, {missing}", file=sys.stderr)
    print(table())
    if options.write:
        DOCS.write_text(put(DOCS.read_text("utf-8"), BEGIN, END, table()), "utf-8")


def the_models(scratch: Path) -> tuple[Folders, dict[str, float]]:
    """The open model and its locked versions; and the bits of secret that each lock draws."""
    from unmergeable.bench.zoo.smollm2 import smollm2

    folders, key, bits = {"open": smollm2()}, unmergeable.Key(SECRET), {}
    for kind, settings in LOCKS.items():
        folders[kind] = scratch / kind.replace(" ", "-")
        report = unmergeable.protect(
            folders["open"], folders[kind], key, settings={**settings, "line": LINE}
        )
        bits[kind] = sum(sum(spaces.values()) for spaces in report.bits.values())
    return folders, bits


def the_sample(folder: Path) -> Sample:
    """Definitions from WordNet, run together, and the prompts that `verify` uses."""
    from transformers import AutoTokenizer

    from unmergeable.bench.data.glosses import glosses

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("\n".join(item.text for item in glosses().test)).input_ids
    passages = [ids[LENGTH * k : LENGTH * (k + 1)] for k in range(PASSAGES)]
    return Sample(passages, [tokenizer(prompt).input_ids for prompt in PROMPTS])


def measured(readings: Readings, sample: Sample, reference: Reading) -> Iterator[dict[str, Any]]:
    """One row for each format and lock."""
    for form, found in readings:
        one = found["open"]
        for kind in LOCKS:
            two = found[kind]
            row = {
                "form": form,
                "kind": kind,
                "perplexity": [perplexity(x, sample) for x in (one, two)],
                "greedy": sum(a == b for a, b in zip(one.greedy, two.greedy, strict=True)),
                "top": float((one.logits.argmax(-1) == two.logits.argmax(-1)).mean()),
                "kl": divergence(one, two),
                "rounding": [divergence(reference, x) for x in (one, two)],
            }
            print(line(row), file=sys.stderr, flush=True)
            yield row


def divergence(one: Reading, two: Reading) -> float:
    """Mean Kullback-Leibler divergence of the second from the first, in nats."""
    pairs = zip(one.logits, two.logits, strict=True)
    rows = [float((np.exp(p) * (p - q)).sum()) for p, q in (map(log_softmax, x) for x in pairs)]
    return max(0.0, float(np.mean(rows)))


def perplexity(one: Reading, sample: Sample) -> float:
    """Exponential of the mean negative log-probability of the tokens that come next."""
    pairs = zip(one.logits, sample.targets, strict=True)
    return float(np.exp(-np.mean([log_softmax(row)[token] for row, token in pairs])))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of one position, in float64."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    (before, after), (own, locked) = row["perplexity"], row["rounding"]
    return (
        f"| {row['form']} | {row['kind']} | {before:.4f} | {after:.4f} "
        f"| {row['greedy']} of {len(PROMPTS)} | {row['top']:.1%} | {row['kl']:.1e} | {own:.1e} "
        f"| {locked:.1e} |"
    )


def table() -> str:
    """All that is kept, in Markdown, and what it was measured with."""
    kept = {name: store.root() / "consumers" / f"{name}.json" for name in PROGRAMS}
    found = {name: json.loads(p.read_text("utf-8")) for name, p in kept.items() if p.exists()}
    rows = [line(row) for one in found.values() for row in one["rows"]]
    about = [
        f"- {name}: {one['sample']}; {', '.join(one['versions'])}" for name, one in found.items()
    ]
    for bits in [one["bits"] for one in found.values()][:1]:
        # The general lock draws real numbers besides, which have no bits to count.
        secret = ", ".join(f"{name} {bits[name]:,.0f}" for name in LOCKS if name != "general")
        about.append(f"- bits of secret that a lock of this model draws: {secret}")
    return "\n".join([HEAD, "| --- " * (HEAD.count("|") - 1) + "|", *rows, "", *about])


if __name__ == "__main__":
    main()
