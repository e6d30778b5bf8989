"""What `protect` and `unlock` do with an adapter: mark it, or carry it along with a lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmergeable.cli.options import load
from unmergeable.cli.output import emit, notice

if TYPE_CHECKING:
    from unmergeable.protection.adapters import AdapterReport


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
    from unmergeable.protection.adapters import protect_adapter, unlock_adapter

    out, key = _here(out), load(key_path)
    if back:
        report = unlock_adapter(adapter, out, key, locked)
    else:
        report = protect_adapter(adapter, out, key, locked, allow_non_finite=allow_non_finite)
    where = "on the open model" if back else f"on {locked}, and on nothing else"
    _report(adapter, report, as_json, f"is an adapter that runs {where}.", back=back)


def mark(
    adapter: str,
    out: str | Path,
    key_path: Path,
    base: str | None,
    settings: Mapping[str, Any],
    register: Path | None,
    as_json: bool,
) -> None:
    """Marks an adapter.

    Args:
        adapter: its folder.
        out: the folder to make.
        key_path: the owner's key.
        base: the public base.
        settings: the mark's.
        register: of licensees.
        as_json: how to say what was done.

    Raises:
        InputError: no base; an output that is not on this machine.
    """
    from unmergeable.defences.registry import chain_of
    from unmergeable.errors import InputError
    from unmergeable.protection.adapter_marking import mark_adapter

    if base is None:
        raise InputError("a mark is added to what fine-tuning changed: give the public --base.")
    given = chain_of("mark", settings).mark
    report = mark_adapter(
        adapter, _here(out), load(key_path), base, settings=given, register=register
    )
    said = "is a marked adapter: `unmergeable trace` finds it in what it is merged into."
    _report(adapter, report, as_json, said)


def _here(out: str | Path) -> Path:
    from unmergeable.errors import InputError

    if isinstance(out, str):
        raise InputError(f"adapters are written to folders on this machine only, not to {out}.")
    return out


def _report(
    adapter: str, report: AdapterReport, as_json: bool, said: str, *, back: bool = False
) -> None:
    """Says what was done."""
    from unmergeable.checkpoint.adapter_folder import open_adapter

    reasons = open_adapter(adapter).reasons if report.left_out else {}
    for name in report.left_out:
        notice(f"not copied, as {reasons.get(name, 'it changed meanwhile')}: {name}")
    if report.renamed:
        other = report.model or "none: set base_model_name_or_path to the model it is published for"
        if back:
            other = "none: set base_model_name_or_path to the open model"
        notice(f"named another model and now names {other}: {', '.join(report.renamed)}")
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
        f"{report.out} {said}",
    )
