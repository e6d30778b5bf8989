"""What each method of alignment leaves of a lock, on a real model.

    python benchmarks/align_methods.py --write    # and put the table into the docs
    python benchmarks/align_methods.py --lock mergelock params --method full aga kabsch

aligns a fine-tune of SmolLM2-135M-Instruct, under the default lock, one with powers of two and a
general one, to its base, and prints a Markdown table: the distance to the true expert in units of
the task vector (of all weights, and of attention's and the FFN's by themselves), the change of the
logits against the true expert's, whether alignment says that the release is too far from its base,
and seconds. The first row says what the base scores, to which no attack is needed; the first of
each lock, how far the lock moves the weights. `--lock` chooses published defences, too; `--base`
and `--expert` name other models; `--method` some of the methods.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.alignment.methods import METHODS
from unmergeable.attacks.alignment.spaces import inner_spaces
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.floats import FORMATS
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Definition: a large natural stream of water that flows to the sea. Word:",
    "Dear colleagues, the meeting on Thursday has been moved to",
)
# By the names that --lock takes: the defence and its settings.
LOCKS: dict[str, tuple[str, dict[str, str]]] = {
    "lossless": ("lock", {"kind": "lossless"}),
    "with powers of two": ("lock", {"scales": "true"}),
    "general": ("lock", {"kind": "general"}),
    "mergelock": ("mergelock", {}),
    "params": ("params", {}),
    "params-symmetric": ("params", {"variant": "symmetric"}),
    "params-nonsymmetric": ("params", {"variant": "nonsymmetric"}),
}
DOCS = Path(__file__).parents[1] / "docs" / "attacks.md"
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
HEAD = (
    "| lock | method | residual / tau | in attention | in FFN | logits | far | seconds |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)
Tensors = dict[str, np.ndarray]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--expert", type=Path)
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--lock", nargs="+", default=list(LOCKS)[:3], choices=list(LOCKS))
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    if (options.base is None) != (options.expert is None):
        parser.error("--base and --expert go together")
    base, expert = (options.base, options.expert) if options.base else the_models()
    with tempfile.TemporaryDirectory() as scratch:
        table = Table(open_folder(base), open_folder(expert))
        lines = list(HEAD)
        print(*lines, sep="\n")
        for row in table.rows(options.lock, options.method, Path(scratch)):
            print(row, flush=True)
            lines.append(row)
    if options.write:
        DOCS.write_text(put(DOCS.read_text("utf-8"), BEGIN, END, for_page(lines)), "utf-8")


def for_page(lines: list[str]) -> str:
    """The table without its seconds, which depend on what else the machine does."""
    return "\n".join(f"{line.rsplit('|', 2)[0]}|" for line in lines)


def the_models() -> tuple[Path, Path]:
    """The demonstration's base and the owner's expert; trained on first use."""
    from unmergeable.bench.data.glosses import glosses
    from unmergeable.bench.demo.run import OWNER
    from unmergeable.bench.zoo.smollm2 import smollm2
    from unmergeable.training.experts import expert

    base = smollm2()
    return base, expert(base, glosses(), OWNER)


class Table:
    """Measures rows against one expert and its base."""

    def __init__(self, base: ModelFolder, expert: ModelFolder) -> None:
        import transformers

        self.base, self.folder = base, expert
        self.expert, self.origin = stored(expert), stored(base)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            expert.path, dtype=torch.float32
        ).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(expert.path)
        layout = Layout.of(expert.config, expert.shapes)
        inner = inner_spaces(layout)
        used = {
            name: {n for axis in placement.rule.axes for n in axis.names()}
            for name, placement in layout.placements.items()
        }
        neurons = {
            name
            for name, space in layout.movable().items()
            if len(space.per) == 1
            and not any(name in other.per for other in layout.movable().values())
        }
        self.parts = {
            "all": list(used),
            "attention": [name for name in used if used[name] & inner],
            "FFN": [name for name in used if used[name] & neurons],
        }
        self.wanted = self.logits(self.expert)

    def rows(self, locks: list[str], methods: list[str], scratch: Path) -> Iterator[str]:
        """Aligns, and gives the table's rows one by one."""
        yield self.row("-", "(the base)", self.origin, "", math.nan)
        for kind in locks:
            defence, settings = LOCKS[kind]
            locked, base = scratch / kind, self.base.path
            key = Key(bytes(32))
            given = {**settings, "line": "benchmark"}  # the same lock in every run
            protect(self.folder.path, locked, key, defence=defence, settings=given, base=base)
            yield self.row(kind, "(none)", stored(open_folder(locked)), "", math.nan)
            for method in methods:
                found = align_tensors(open_folder(locked), self.base, method=method)
                tensors = {
                    name: numbers(data, self.folder, name) for name, data in found.tensors.items()
                }
                far = "yes" if found.suspicious else "no"
                yield self.row(kind, method, tensors, far, found.seconds)
            shutil.rmtree(locked)

    def row(self, kind: str, method: str, tensors: Tensors, far: str, seconds: float) -> str:
        """One line of Markdown."""
        cells = [kind, method]
        for names in self.parts.values():
            tau = distance(self.origin, self.expert, names)
            cells.append(f"{distance(tensors, self.expert, names) / tau:.3g}")
        logits = self.logits(tensors)
        change = float((logits - self.wanted).norm() / self.wanted.norm())
        cells += [f"{change:.1e}", far, "" if math.isnan(seconds) else f"{seconds:.1f}"]
        return f"| {' | '.join(cells)} |"

    def logits(self, tensors: Tensors) -> torch.Tensor:
        """The logits of all prompts, each position's with mean zero, as one vector."""
        with torch.no_grad():
            state: dict[str, Any] = {n: torch.from_numpy(x) for n, x in tensors.items()}
            self.model.load_state_dict(state, strict=False)
            self.model.tie_weights()
            found = []
            for prompt in PROMPTS:
                inputs = self.tokenizer(prompt, return_tensors="pt")
                logits = self.model(**inputs).logits.double()
                found.append((logits - logits.mean(-1, keepdim=True)).flatten())
        return torch.cat(found)


def stored(folder: ModelFolder) -> Tensors:
    """All tensors of a folder, in float32."""
    with TensorReader(folder) as reader:
        return {name: numbers(reader.read(name), folder, name) for name in folder.tensors}


def numbers(data: np.ndarray, folder: ModelFolder, name: str) -> np.ndarray:
    """Stored bytes as float32, in the tensor's shape."""
    entry = folder.tensors[name]
    return data.view(FORMATS[entry.dtype].number).astype(np.float32).reshape(entry.shape)


def distance(one: Tensors, two: Tensors, names: list[str]) -> float:
    """Frobenius distance over some tensors."""
    gaps = ((one[name] - two[name]).ravel() for name in names)
    return math.sqrt(sum(float(gap @ gap) for gap in gaps))


if __name__ == "__main__":
    main()
