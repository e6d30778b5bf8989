"""The page's figures: what each defence leaves, and what theft costs, as small SVG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmergeable.bench.field.columns import CEILINGS
from unmergeable.bench.field.defences import NONE
from unmergeable.bench.field.results import Figure, Results
from unmergeable.bench.field.tables import title
from unmergeable.extras import optional

# Okabe and Ito's palette, which colour-blind people can tell apart.
_RELEASED = "#0072B2"


def _series(results: Results) -> tuple[tuple[str, tuple[str, ...], str, str], ...]:
    return (
        ("as released", ("none",), _RELEASED, "o"),
        ("best attack without data", results.data_free, "#D55E00", "s"),
        ("best attack with data", results.with_data, "#009E73", "D"),
    )


def defences(results: Results, path: Path) -> bool:
    """V of every defence: open, as released, and after attacks; returns whether there was any."""
    pyplot = _pyplot()
    rows = [d for d in results.defences if d is not NONE]
    opened = results.best(NONE, ("none",))
    if opened is None or not rows:
        return False
    figure, axes = pyplot.subplots(figsize=(7.2, 0.9 + 0.42 * len(rows)))
    axes.axvspan(opened.low, opened.high, color="#cccccc", alpha=0.5, linewidth=0)
    axes.axvline(opened.value, color="#555555", linewidth=1, label="open expert")
    for series, (label, attacks, colour, marker) in enumerate(_series(results)):
        found = [(row, results.best(defence, attacks)) for row, defence in enumerate(rows)]
        there = [(row, best) for row, best in found if best is not None]
        if not there:
            continue
        axes.errorbar(
            [best.value for _, best in there],
            [row + 0.22 * (series - 1) for row, _ in there],
            xerr=_bars([best for _, best in there]),
            fmt=marker,
            color=colour,
            markersize=5,
            linewidth=1.2,
            label=label,
        )
    for row, defence in enumerate(rows):
        if results.best(defence, ("none",)) is None:
            axes.text(0.01, row - 0.22, "refused", fontsize=7, color=_RELEASED, va="center")
    axes.set_yticks(range(len(rows)), [title(defence) for defence in rows])
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("V: what the best merge is worth")
    axes.set_title(results.index["title"], fontsize=10)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.16 - 0.3 / len(rows)), ncol=4, fontsize=7
    )
    _save(figure, path)
    return True


def prices(results: Results, path: Path) -> bool:
    """V against the seconds of the attack that reaches it, beside the ceilings."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7.2, 3.6))
    drawn = False
    kinds = [
        (label, (attack,), colour, marker)
        for label, attacks, colour, marker in _series(results)[1:]
        for attack in attacks
    ]
    kinds += [("ceiling: no merge", (attack,), "#777777", "x") for attack in CEILINGS]
    named: set[str] = set()
    for label, attacks, colour, marker in kinds:
        found = [(d, results.best(d, attacks)) for d in results.defences if d is not NONE]
        there = [(defence, best) for defence, best in found if best is not None]
        if not there:
            continue
        drawn |= attacks[0] not in results.data_free  # alignment alone has no curve of prices
        axes.plot(
            [max(best.price["seconds"], 0.05) for _, best in there],
            [best.value for _, best in there],
            marker,
            color=colour,
            markersize=5,
            alpha=0.8,
            label=None if label in named else label,
        )
        named.add(label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("seconds of the attack (one mark for each defence and attack)")
    axes.set_ylabel("V reached")
    axes.set_title(results.index["title"], fontsize=10)
    if drawn:
        axes.legend(fontsize=7)
        _save(figure, path)
    pyplot.close(figure)
    return drawn


def _bars(figures: list[Figure]) -> list[list[float]]:
    return [
        [max(0.0, figure.value - figure.low) for figure in figures],
        [max(0.0, figure.high - figure.value) for figure in figures],
    ]


def _pyplot() -> Any:
    matplotlib = optional("matplotlib")
    matplotlib.use("Agg")
    # The same figures give the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "unmergeable", "svg.fonttype": "none"})
    return optional("matplotlib.pyplot")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(
        path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None
    )
    optional("matplotlib.pyplot").close(figure)
