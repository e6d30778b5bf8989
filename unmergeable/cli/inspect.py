"""`unmergeable inspect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from unmergeable.cli.options import model_argument
from unmergeable.cli.output import emit, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command("inspect", short_help="What a lock can move in a model.")
@model_argument
@json_option
def command(model: str, as_json: bool) -> None:
    """Show the spaces of MODEL, what each may undergo, and what stays and why.

    Reads headers only. The names are those that `protect --set spaces=...` takes.
    """
    from unmergeable.protection.inspect import inspect

    report = inspect(model)
    manifest = report.manifest
    document = {
        "model": str(report.path),
        "family": report.family,
        "class": report.model_class,
        "parameters": report.parameters,
        "dtypes": report.dtypes,
        "secret_bits": report.bits,
        "spaces": [asdict(space) for space in report.spaces],
        "tensors": [asdict(tensor) for tensor in report.tensors],
        "left_out": list(report.left_out),
        "manifest": None if manifest is None else asdict(manifest),
    }
    if as_json:
        emit(as_json, document)
        return
    from rich.table import Table

    spaces = Table("space", "size", "copies", "per", "may undergo", "secret bits", title="Spaces")
    for space in report.spaces:
        spaces.add_row(
            space.name,
            "any" if space.size is None else str(space.size),
            str(space.instances),
            " ".join(space.per),
            space.group or f"fixed: {space.fixed}",
            f"{space.bits:,.0f}" if space.group else "",
        )
    tensors = Table("tensor", "axes", "copies", title="Tensors")
    for tensor in report.tensors:
        tensors.add_row(tensor.name, tensor.axes, str(tensor.count))
    formats = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in report.dtypes.items())
    lines: list[RenderableType] = [
        f"{report.path}: {report.family}, {report.model_class or 'no class named'}, "
        f"{report.parameters:,} weights, {formats}",
        spaces,
        tensors,
        f"The default lock draws {report.bits:,.0f} bits of secret.",
    ]
    if manifest is not None:
        links = " + ".join(f"{link.defence} {link.settings}" for link in manifest.chain)
        lines.append(f"Protected: {links}, {f'key {manifest.key}' if manifest.key else 'no key'}.")
    if report.left_out:
        lines.append(f"Not copied by protect: {', '.join(report.left_out)}")
    emit(as_json, document, *lines)
