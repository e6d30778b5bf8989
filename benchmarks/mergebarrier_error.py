"""What MergeBarrier-style protection (reconstructed) costs a real model: error, size and time.

    python benchmarks/mergebarrier_error.py

protects SmolLM2, MiniLM and DINOv2 at several orders, loads the result as a user would, with
`trust_remote_code`, and prints a Markdown table. Ranges are calibrated on WordNet glosses; errors
are measured on other glosses and, in a column of their own, on prompts unlike them. DINOv2 gets
synthetic images for both. `ffn` is the relative error of the FFN blocks' outputs on the calibration
data (median over layers), `output` that of the model's, `top-1` how often the largest output value
is the same. `time` is the median, over paired runs, of seconds per forward relative to the stock
model. `--neurons auto all 0.5` and `--order` choose rows; `--model` one model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mergebarrier.mergebarrier import Conversion, convert
from unmergeable.keys.key import Key
from unmergeable.verification.inputs import PROMPTS

DOCS = Path(__file__).parents[1] / "docs" / "defences.md"
BEGIN, END = "<!-- orders: begin -->", "<!-- orders: end -->"
HEAD = (
    "| model | neurons | order | expanded (least .. most) | ffn | output | top-1 | "
    "output elsewhere | top-1 elsewhere | size | time | convert, s |"
)
Inputs = Sequence[Mapping[str, torch.Tensor]]
CALIBRATION, TEST, RUNS = 48, 8, 5


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--order", nargs="+", type=int, default=[2, 4, 8, 12])
    parser.add_argument("--neurons", nargs="+", default=["auto", "all"])
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    lines = [HEAD, "|" + " --- |" * 12]
    print("\n".join(lines))
    for name in options.model:
        folder, loader, calibration, sets = MODELS[name]()
        scene = Scene(folder, loader, calibration, sets)
        for neurons in options.neurons:
            for order in options.order:
                lines.append(f"| {name} | {neurons} | {order} | {scene.row(neurons, order)} |")
                print(lines[-1], flush=True)
    if options.write:
        page = DOCS.read_text("utf-8")
        DOCS.write_text(put(page, BEGIN, END, "\n".join(lines)), "utf-8")


class Scene:
    """One model, its stock outputs, and what it is calibrated on."""

    def __init__(
        self, folder: Path, loader: Any, calibration: Sequence[Any], sets: Sequence[Inputs]
    ) -> None:
        self.folder, self.loader = open_folder(folder), loader
        self.calibration, self.sets = calibration, sets
        self.stock = loader.from_pretrained(folder, dtype=torch.float32).eval()
        self.wanted = [outputs(self.stock, inputs) for inputs in sets]

    def row(self, neurons: str, order: int) -> str:
        """The cells of one protection."""
        layout = Layout.of(self.folder.config, self.folder.shapes)
        given = {"order": order, "neurons": neurons}
        start = time.perf_counter()
        with TensorReader(self.folder) as reader:
            try:
                made = convert(
                    self.folder, layout, Key(bytes(32)), given, self.calibration, reader.values
                )
            except Exception as error:
                return str(error)
        spent = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as scratch:
            out = write(made, Path(scratch) / "protected")
            model = self.loader.from_pretrained(out, trust_remote_code=True).eval()
        cells = []
        for inputs, wanted in zip(self.sets, self.wanted, strict=True):
            found = outputs(model, inputs)
            cells.append(f"{float((found - wanted).norm() / wanted.norm()):.1e}")
            cells.append(f"{float((found.argmax(1) == wanted.argmax(1)).double().mean()):.1%}")
        share = made.measured["share"]
        head = [
            f"{made.measured['median_share']:.0%} ({min(share):.0%} .. {max(share):.0%})",
            f"{made.measured['median_ffn_error']:.1e}",
        ]
        tail = [
            f"{sum(x.nbytes for x in made.tensors.values()) / stock_bytes(self.folder):.2f}",
            f"{slowdown(self.stock, model, self.sets[0]):.1f}",
            f"{spent:.0f}",
        ]
        return " | ".join(head + cells + tail)


def write(made: Conversion, out: Path) -> Path:
    """A conversion as a model folder."""
    out.mkdir()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in made.tensors.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(made.config))
    for name, content in made.files.items():
        (out / name).write_bytes(content)
    return out


def stock_bytes(folder: ModelFolder) -> int:
    """Bytes of a folder's tensors."""
    return sum(entry.size for entry in folder.tensors.values())


def outputs(model: Any, inputs: Inputs) -> torch.Tensor:
    """Logits with mean zero, or hidden states, of all positions: (positions, values), float64."""
    rows = []
    with torch.inference_mode():
        for batch in inputs:
            out = model(**batch)
            found = out["logits"] if "logits" in out else out["last_hidden_state"]
            found = found.double().reshape(-1, found.shape[-1])
            rows.append(found - found.mean(-1, keepdim=True))
    return torch.cat(rows)


def slowdown(stock: Any, model: Any, inputs: Inputs) -> float:
    """Median over paired runs of the protected model's time relative to the stock model's."""

    def seconds(one: Any) -> float:
        start = time.perf_counter()
        outputs(one, inputs[:2])
        return time.perf_counter() - start

    return statistics.median(seconds(model) / seconds(stock) for _ in range(RUNS))


def texts(folder: Path, loader: Any) -> tuple[Path, Any, Sequence[Any], Sequence[Inputs]]:
    """Glosses to calibrate on, other glosses, and other prompts."""
    from unmergeable.bench.data.glosses import glosses

    task = glosses()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    train = [item.text for item in task.train[:CALIBRATION]]
    test = [item.text for item in task.test[:TEST]]
    sets = [
        [dict(tokenizer(text, return_tensors="pt")) for text in chosen]
        for chosen in (test, PROMPTS)
    ]
    return folder, loader, train, sets


def smollm2() -> Any:
    from unmergeable.bench.zoo.smollm2 import smollm2

    return texts(smollm2(), transformers.AutoModelForCausalLM)


def minilm() -> Any:
    from unmergeable.bench.zoo.minilm import minilm

    return texts(minilm(), transformers.AutoModel)


def dinov2() -> Any:
    from unmergeable.bench.zoo.dinov2 import dinov2

    made = [{"pixel_values": image} for image in images(CALIBRATION // 4 + 2 * TEST)]
    rest = made[2 * TEST :]
    return dinov2(), transformers.AutoModel, rest, [made[:TEST], made[TEST : 2 * TEST]]


def images(count: int, side: int = 126) -> list[torch.Tensor]:
    """Smooth colour gradients with noise, about normalised."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    found = []
    for _ in range(count):
        a, b, c = random.normal(size=(3, 3, 1, 1))
        image = a * x + b * y + np.sin(3 * c * x * y) + 0.3 * random.normal(size=(3, side, side))
        found.append(torch.tensor(image[None], dtype=torch.float32))
    return found


MODELS = {"SmolLM2": smollm2, "MiniLM": minilm, "DINOv2": dinov2}

if __name__ == "__main__":
    main()
