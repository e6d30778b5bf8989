"""`unmergeable trace`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.options import key_option, load
from unmergeable.cli.output import emit, json_option

NOT_FOUND = 1


@click.command("trace", short_help="Is my expert in this model, and whose copy of it?")
@click.argument("suspect", metavar="SUSPECT")
@click.option("--base", required=True, metavar="MODEL", help="The public base of both.")
@click.option(
    "--original", required=True, metavar="MODEL", help="The expert, as it was before the mark."
)
@click.option(
    "--sibling",
    "siblings",
    multiple=True,
    metavar="MODEL",
    help="Another fine-tune of the base that SUSPECT may contain; repeat. Makes the test stronger.",
)
@key_option(required=True, text="The key that the mark was made with.")
@click.option(
    "--licensee",
    "licensees",
    multiple=True,
    metavar="NAME",
    help="Whose copies to look for, besides the release to all; repeat.",
)
@click.option(
    "--strength",
    type=click.FloatRange(min=0, min_open=True, max=1),
    help="That the mark was made with, for the weight. Default: that of `protect`.",
)
@click.option(
    "--suspects",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many models were tried in all; p-values are corrected for it.",
)
@click.option(
    "--error-rate",
    type=click.FloatRange(min=0, min_open=True, max=0.05),
    default=1e-6,
    show_default=True,
    help="The p-value up to which a mark counts as found.",
)
@json_option
def command(
    suspect: str,
    base: str,
    original: str,
    siblings: tuple[str, ...],
    key_path: Path,
    licensees: tuple[str, ...],
    strength: float | None,
    suspects: int,
    error_rate: float,
    as_json: bool,
) -> int:
    """Look for your marks in SUSPECT.

    A release that was protected with `--defence mark` differs from your expert by signs that only
    your key makes, one set for each licensee. SUSPECT is aligned to the base, which undoes a lock;
    then what your expert and known siblings explain is taken out of it, and the rest is compared
    with each set of signs. The p-value holds for any model that was made without your key, however
    it was made: it needs no other models to compare with.

    Exit code 0 means that a mark was found, 1 that there is no evidence. No evidence is no proof of
    innocence: training, few bits or a distilled copy can take a mark off.
    """
    from unmergeable.defences.mark import STRENGTH
    from unmergeable.tracing.trace import trace

    report = trace(
        suspect,
        base=base,
        original=original,
        key=load(key_path),
        licensees=("", *licensees),
        siblings=siblings,
        strength=strength or STRENGTH,
        suspects=suspects,
        error_rate=error_rate,
    )
    lines = []
    for one in report.traces:
        who = f"the copy of {one.licensee}" if one.licensee else "the release to all"
        low, high = one.interval
        lines.append(
            f"{who}: z = {one.z:.1f}, p <= 1e{one.log10_p:.1f}"
            + (f", weight {one.weight:.3f} ({low:.3f} to {high:.3f})" if one.z > 3 else "")
        )
    if report.skipped:
        lines.append(f"not compared, of another shape or not finite: {len(report.skipped)} tensors")
    best = report.traces[0]
    if report.found:
        who = f"the copy of {best.licensee}" if best.licensee else "the release to all"
        lines.append(f"Found: {suspect} contains {who}.")
    else:
        lines.append(f"No evidence of any of {report.tests} marks in {suspect}.")
    emit(as_json, report.to_dict(), *lines)
    return 0 if report.found else NOT_FOUND
