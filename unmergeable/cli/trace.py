"""`unmergeable trace`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmergeable.cli.options import key_option, load
from unmergeable.cli.output import emit, json_option

if TYPE_CHECKING:
    from unmergeable.tracing.trace import TraceReport

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
@click.option(
    "--twin",
    "twins",
    multiple=True,
    metavar="MODEL",
    help="Your expert, trained again with its data in another order; repeat, 19 times at least. "
    "In place of --key, for a release that has no mark.",
)
@key_option(required=False, text="The key that the mark was made with.")
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
    help="The p-value up to which something counts as found. Default: 1e-6; with twins 0.05.",
)
@json_option
def command(
    suspect: str,
    base: str,
    original: str,
    siblings: tuple[str, ...],
    twins: tuple[str, ...],
    key_path: Path | None,
    licensees: tuple[str, ...],
    strength: float | None,
    suspects: int,
    error_rate: float | None,
    as_json: bool,
) -> int:
    """Look for your expert in SUSPECT.

    A release that was protected with `--defence mark` differs from your expert by signs that only
    your key makes, one set for each licensee. SUSPECT is aligned to the base, which undoes a lock;
    then what your expert and known siblings explain is taken out of it, and the rest is compared
    with each set of signs. The p-value holds for any model that was made without your key, however
    it was made: it needs no other models to compare with.

    For a release without a mark, give twins. If SUSPECT was made from none of them, your expert is
    the most similar of all with a chance of one in their number: 19 show a p-value of 0.05.

    With --sibling, and with neither key nor twins, the weights with which known models come closest
    to SUSPECT are shown: a lead, and no proof.

    Exit code 0 means that something was found, 1 that there is no evidence. No evidence is no proof
    of innocence: training, few bits or a distilled copy can take a mark off.
    """
    from unmergeable.defences.mark import STRENGTH
    from unmergeable.tracing.trace import trace

    report = trace(
        suspect,
        base=base,
        original=original,
        key=None if key_path is None else load(key_path),
        licensees=("", *licensees),
        siblings=siblings,
        twins=twins,
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
    if report.twins:
        lines.append(
            f"similarity {report.twins.similarity:.4f}; of {report.twins.twins} twins at most "
            f"{max(report.twins.others):.4f}: p = {report.twins.p:.3g}"
        )
    if siblings or not (report.traces or report.twins):
        shares = ", ".join(f"{weight:.3f} of {name}" for name, weight in report.composition.items())
        lines.append(f"a lead, and no proof: {shares} explain {report.explained:.0%} of {suspect}")
    if report.skipped:
        lines.append(f"not compared, of another shape: {len(report.skipped)} tensors")
    lines.append(_answer(report, suspect))
    emit(as_json, report.to_dict(), *lines)
    return 0 if report.found else NOT_FOUND


def _answer(report: TraceReport, suspect: str) -> str:
    if report.found and report.twins:
        return f"Found: {suspect} contains the expert rather than one of its twins."
    if report.found:
        who = report.traces[0].licensee
        return f"Found: {suspect} contains {f'the copy of {who}' if who else 'the release to all'}."
    if report.traces:
        return f"No evidence of any of {report.tests} marks in {suspect}."
    return f"No evidence of the expert in {suspect}."
