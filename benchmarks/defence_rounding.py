"""What a defence's matrices inside heads cost a real model that is stored in a narrow dtype.

    python benchmarks/defence_rounding.py
    python benchmarks/defence_rounding.py --dtype F16 --model minilm

draws MergeLock's and each variant of PaRaMS on a model, rounds the moved heads to the dtype, and
prints a Markdown table: condition numbers of what was drawn, and the relative error of a head's
products, moved and unmoved (medians over two heads of each layer, and the largest). Nothing is
written: above its tolerance, PaRaMS would refuse.
"""

from __future__ import annotations

import argparse

from unmergeable.architectures.layout import Layout
from unmergeable.bench.zoo.dinov2 import dinov2
from unmergeable.bench.zoo.minilm import minilm
from unmergeable.bench.zoo.smollm2 import smollm2
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.defence import GaugeDefence, Subject
from unmergeable.defences.mergelock import MergeLock
from unmergeable.defences.params import Params
from unmergeable.defences.roles import HEADS, spaces_for
from unmergeable.defences.rounding import rounding
from unmergeable.keys.key import Key

MODELS = {"smollm2": smollm2, "minilm": minilm, "dinov2": dinov2}
HUGE = 1e9  # a tolerance that nothing exceeds
ROWS: dict[str, tuple[GaugeDefence, dict[str, object]]] = {
    "MergeLock-style": (MergeLock(), {}),
    **{
        f"PaRaMS, {variant}": (
            Params(),
            {"parts": "heads", "variant": variant, "tolerance": HUGE},
        )
        for variant in ("diagonal", "symmetric", "nonsymmetric")
    },
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["smollm2"], choices=list(MODELS))
    parser.add_argument("--dtype", default="BF16", choices=["BF16", "F16"])
    options = parser.parse_args()
    print("| model | defence | space | condition, median (largest) | error | unmoved |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in options.model:
        folder = open_folder(MODELS[name]())
        layout = Layout.of(folder.config, folder.shapes)
        with TensorReader(folder) as reader:
            subject = Subject(layout, Key(bytes(32)), frozenset({options.dtype}), reader.values)
            for title, (defence, given) in ROWS.items():
                for line in lines(subject, defence, given):
                    print(f"| {name} | {title} | {line} |", flush=True)


def lines(subject: Subject, defence: GaugeDefence, given: dict[str, object]) -> list[str]:
    """The cells of one defence, a line for each kind of space inside heads."""
    # Decided as if nothing were rounded, or a draw that the dtype cannot hold would be refused.
    wide = Subject(subject.layout, subject.key, frozenset({"F32"}), subject.values)
    decision = defence.decide(given, wide)
    gauge = defence.gauge(subject.key, subject.layout, decision.settings, decision.secret)
    cost = rounding(subject, spaces_for(subject.layout, *HEADS), gauge)
    drawn = decision.measured["condition"]
    return [
        f"{role} | {drawn[role]['median']:.3g} ({drawn[role]['largest']:.3g}) | "
        f"{cost[role]['median']:.2g} ({cost[role]['largest']:.2g}) | {cost[role]['unmoved']:.2g}"
        for role in drawn
    ]


if __name__ == "__main__":
    main()
