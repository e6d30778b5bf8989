"""What `protect` and `unlock` do with an adapter: carry it along with its model's lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from unmergeable.cli.options import load
from unmergeable.cli.output import emit, notice


def locked_model_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --model."""
    return click.option("--model", "locked", metavar="LOCKED", help=text)


def carry(
    adapter: str,
    out: str | Path,
    key_path: Path,
    locked: str,
    as_json: bool,
    *,
    back: bool,
    allow_non_finite: bool = False,
) -> None:
    """Carries an adapter into a locked model's coordinates, or back.

    Raises:
        InputError: an output that is not on this machine.
    """
    from unmergeable.checkpoint.adapter_folder import open_adapter
    from unmergeable.errors import InputError
    from unmergeable.protection.adapters import protect_adapter, unlock_adapter

    if isinstance(out, str):
        raise InputError(f"adapters are written to folders on this machine only, not to {out}.")
    key = load(key_path)
    if back:
        report = unlock_adapter(adapter, out, key, locked)
    else:
        report = protect_adapter(adapter, out, key, locked, allow_non_finite=allow_non_finite)
    reasons = open_adapter(adapter).reasons if report.left_out else {}
    for name in report.left_out:
        notice(f"not copied, as {reasons.get(name, 'it changed meanwhile')}: {name}")
    if report.renamed:
        other = report.model or "none: set base_model_name_or_path to the model it is published for"
        if back:
            other = "none: set base_model_name_or_path to the open model"
        notice(f"named another model and now names {other}: {', '.join(report.renamed)}")
    where = "on the open model" if back else f"on {locked}, and on nothing else"
    emit(
        as_json,
        {
            "out": str(report.out),
            "exact": report.exact,
            "weights": report.weights,
            "left_out": list(report.left_out),
            "model": report.model,
            "renamed": list(report.renamed),
        },
        f"{report.out} is an adapter that runs {where}.",
    )
