"""`unmergeable align`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.options import out_argument
from unmergeable.cli.output import emit, json_option, notice, progress_bar


def _list_methods(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from unmergeable.attacks.alignment.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        click.echo(f"{name:<{width}}  {method.sentence} [{method.source}]")
    context.exit()


@click.command("align", short_help="The attack: undo a lock without its key.")
@click.argument("protected", metavar="PROTECTED")
@out_argument
@click.option(
    "--base", metavar="MODEL", required=True, help="The public base, or any clean sibling."
)
@click.option(
    "--method",
    metavar="NAME",
    default="full",
    show_default=True,
    help="How to fit; see --list-methods.",
)
@click.option(
    "--list-methods",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_methods,
    help="Print the methods, each with its source.",
)
@json_option
def command(protected: str, out: Path, base: str, method: str, as_json: bool) -> None:
    """Bring PROTECTED back to the coordinates of its public base, without key and without data.

    This is what a determined merger does to an exact lock, and why a lock alone is no more than
    a fence against unmodified merge tools. Try it on your own model before you publish it.

    The default method is the strongest. The others are published attacks, for comparison. Their
    papers say nothing of the residual stream or the order of heads, so these two are fitted our way
    for all of them but weight-matching and canonical, which have their own; aga-full and base-reset
    need no order of heads.
    """
    from unmergeable.attacks.align import align
    from unmergeable.checkpoint.hub import resolve

    folder = resolve(protected)
    with progress_bar() as progress:
        report = align(folder, out, base, method=method, progress=progress)
    if report.suspicious:
        notice(f"Is {base} the base of this model? {report.explanation}")
    emit(
        as_json,
        {
            "out": str(report.out),
            "method": report.method,
            "distance_before": report.before,
            "distance_after": report.after,
            "suspicious": report.suspicious,
            "seconds": report.seconds,
            "fit_seconds": report.fit_seconds,
        },
        f"{report.out}: distance to the base {report.before:.2%} of its weights before, "
        f"{report.after:.2%} after alignment; {report.seconds:.1f} s, {report.fit_seconds:.1f} of "
        "them to fit; no data.",
    )
