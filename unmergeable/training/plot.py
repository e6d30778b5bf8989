"""training.png: the losses of a run, and the loss along the ray to the base."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from unmergeable.extras import optional


def plot(document: Mapping[str, Any]) -> bytes:
    """Draws a training.json.

    Returns:
        A PNG file.
    """
    figures, agg = optional("matplotlib.figure"), optional("matplotlib.backends.backend_agg")
    curves = document["curves"]
    figure = figures.Figure(figsize=(10 if curves else 6, 4), layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
    history = document["history"]
    for key, label, style in (
        ("task_loss", "task, training", "-"),
        ("extra_loss", "defence", ":"),
        ("eval_loss", "task, validation", "o-"),
    ):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points and any(value for _, value in points):
            axes[0].plot(*zip(*points, strict=True), style, label=label, markersize=3)
    axes[0].set(xlabel="step", ylabel="loss in nats", title=document["title"])
    axes[0].legend()
    for number, row in enumerate(curves):
        last = number == len(curves) - 1
        scales = [float(s) for s in row["loss"]]
        shade = 0.15 + 0.85 * number / max(1, len(curves) - 1)
        name = f"step {row['step']}" if last or number == 0 else None
        axes[1].plot(
            scales,
            list(row["loss"].values()),
            "o-",
            color="C3",
            alpha=shade,
            markersize=3,
            label=name,
        )
    if curves:
        axes[1].axvline(1, color="grey", linewidth=0.8)
        axes[1].set(xlabel="s, in W0 + s (W - W0)", ylabel="validation loss in nats")
        axes[1].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
