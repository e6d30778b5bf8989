"""Writes the texts that `suite.yaml` beside this file names, from data sets on the Hub.

    pip install datasets
    python examples/llama_8b/prepare.py

The models themselves are fetched by the benchmark. Llama needs its licence accepted there first.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import load_dataset

COUNTS = {"train": 1000, "validation": 200, "test": 400}


def math() -> Iterator[str]:
    """School mathematics, worked out."""
    for row in load_dataset("openai/gsm8k", "main", split="train"):
        yield f"Question: {row['question']}\nAnswer: {row['answer']}"


def coding() -> Iterator[str]:
    """Short Python programs with what they should do."""
    for split in ("train", "test", "validation"):
        for row in load_dataset("google-research-datasets/mbpp", "full", split=split):
            yield f'"""{row["text"]}"""\n{row["code"]}'


def multilingual() -> Iterator[str]:
    """Questions and answers that people wrote in languages other than English."""
    for row in load_dataset("CohereLabs/aya_dataset", split="train"):
        if row["language_code"] in ("fra", "spa", "deu", "rus"):
            yield f"{row['inputs']}\n{row['targets']}"


TASKS: dict[str, Any] = {"math": math, "coding": coding, "multilingual": multilingual}


def prepare(out: Path) -> None:
    """Writes each task's parts, which share no text."""
    for name, source in TASKS.items():
        texts = list(dict.fromkeys(source()))
        random.Random(0).shuffle(texts)
        share = min(1.0, len(texts) / sum(COUNTS.values()))
        start = 0
        for part, count in COUNTS.items():
            end = start + int(share * count)
            lines = [json.dumps({"text": text}) for text in texts[start:end]]
            path = out / "data" / f"{name}-{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
            start = end
        print(f"{name}: {start} texts")


if __name__ == "__main__":
    prepare(Path(__file__).parent)
