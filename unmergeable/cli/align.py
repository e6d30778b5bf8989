"""`unmergeable align`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.options import out_argument
from unmergeable.cli.output import emit, json_option, notice, progress_bar

# Fine-tuning moves weights by a few percent; what stays farther away was not brought back.
FAR = 0.3


@click.command("align", short_help="The attack: undo a lock without its key.")
@click.argument("protected", metavar="PROTECTED")
@out_argument
@click.option(
    "--base", metavar="MODEL", required=True, help="The public base, or any clean sibling."
)
@json_option
def command(protected: str, out: Path, base: str, as_json: bool) -> None:
    """Bring PROTECTED back to the coordinates of its public base, without key and without data.

    This is what a determined merger does to an exact lock, and why a lock alone is no more than
    a fence against unmodified merge tools. Try it on your own model before you publish it.
    """
    from unmergeable.attacks.align import align
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import resolve

    folder = resolve(protected)
    with progress_bar("aligning", 2 * open_folder(folder).size) as advance:
        report = align(folder, out, base, progress=advance)
    if report.after > FAR:
        notice(
            f"the aligned weights are still {report.after:.0%} away from {base}: it may not be the "
            "base of this model, or something other than an exact lock protects it."
        )
    emit(
        as_json,
        {
            "out": str(report.out),
            "distance_before": report.before,
            "distance_after": report.after,
            "seconds": report.seconds,
        },
        f"{report.out}: distance to the base {report.before:.2%} of its weights before, "
        f"{report.after:.2%} after alignment; {report.seconds:.1f} s, no data.",
    )
