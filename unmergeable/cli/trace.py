"""`unmergeable trace`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from unmergeable.cli.options import key_option, load, passphrase_of
from unmergeable.cli.output import emit, json_option

if TYPE_CHECKING:
    from unmergeable.tracing.evidence import EvidenceReport
    from unmergeable.tracing.trace import Trace, TraceReport

NOT_FOUND = 1
# Options of a search, and of a check: which one it is, --check says.
_SEARCHES = {
    "twins": "--twin",
    "key_path": "--key",
    "licensees": "--licensee",
    "register": "--register",
    "strength": "--strength",
    "suspects": "--suspects",
    "error_rate": "--error-rate",
    "evidence": "--evidence",
    "private_key": "--sign",
}
_CHECKS = {"manifest": "--manifest", "public_key": "--public-key"}


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
    "--register",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The list of licensees that `protect --register` keeps: look for all of them, or for "
    "those of --licensee, who must be in it.",
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
@click.option(
    "--evidence",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write what was found into FILE, for others to check without your key. It holds the "
    "secret of the one mark that was found.",
)
@click.option(
    "--sign",
    "private_key",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Sign the evidence with this key, ECDSA or Ed25519.",
)
@click.option(
    "--check",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="In place of --key: check this evidence, which somebody else may have made.",
)
@click.option(
    "--manifest",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --check: the unmergeable.json that was published with the marked release.",
)
@click.option(
    "--public-key",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="With --check: of who claims it; checks the signature.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    suspect: str,
    base: str,
    original: str,
    siblings: tuple[str, ...],
    twins: tuple[str, ...],
    key_path: Path | None,
    licensees: tuple[str, ...],
    register: Path | None,
    strength: float | None,
    suspects: int,
    error_rate: float | None,
    evidence: Path | None,
    private_key: Path | None,
    check: Path | None,
    manifest: Path | None,
    public_key: Path | None,
    as_json: bool,
) -> int:
    """Look for your expert in SUSPECT.

    A release that was protected with `--defence mark` differs from your expert by signs that only
    your key makes, one set for each licensee. SUSPECT is aligned to the base, which undoes a lock;
    then what your expert and known siblings explain is taken out of it, and the rest is compared
    with each set of signs. The p-value holds for any model that was made without your key, however
    it was made: it needs no other models to compare with.

    SUSPECT, --original, siblings and twins may be PEFT adapters of the base. The mark of an adapter
    is found in the adapter, in others that were made of it, and in models that it was merged into.
    Unlock one that runs on a locked model first: `unmergeable unlock ADAPTER OUT --model LOCKED`.

    For a release without a mark, give twins. If SUSPECT was made from none of them, your expert is
    the most similar of all with a chance of one in their number: 19 show a p-value of 0.05.

    With --sibling, and with neither key nor twins, the weights with which known models come closest
    to SUSPECT are shown: a lead, and no proof.

    Exit code 0 means that something was found, 1 that there is no evidence. No evidence is no proof
    of innocence: training, few bits or a distilled copy can take a mark off.

    With --evidence others can check it, with the models and without your key: --check finds all
    that it says again. Then 0 means that all agrees, 1 that something does not, which is named, and
    2 that the file is damaged. Without --manifest nothing shows that the mark was committed to
    before SUSPECT was there, and that is said.

    \b
      unmergeable trace suspect --base base --original expert --key owner.key \\
                          --evidence found.json --sign signing.pem
      unmergeable trace suspect --base base --original expert --check found.json \\
                          --manifest release/unmergeable.json --public-key signing.pub
    """
    others = _CHECKS if check is None else _SEARCHES
    for name, option in others.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option} goes {'with' if check is None else 'without'} --check."
            )
    if check is not None:
        models = {"base": base, "original": original, "siblings": siblings}
        return _check(suspect, check, models, manifest, public_key, as_json)
    if evidence is not None and key_path is None:
        raise click.UsageError("--evidence is of a mark, and needs --key.")
    if private_key is not None and evidence is None:
        raise click.UsageError("--sign goes with --evidence.")
    from unmergeable.defences.mark import STRENGTH
    from unmergeable.errors import InputError
    from unmergeable.keys.signing_key import SigningKey
    from unmergeable.tracing.evidence import write_evidence
    from unmergeable.tracing.trace import trace

    key = None if key_path is None else load(key_path)
    signer = private_key and SigningKey.load(private_key, partial(passphrase_of, private_key))
    if evidence is not None and evidence.exists():
        raise InputError(f"{evidence} exists. Choose another name.")
    report = trace(
        suspect,
        base=base,
        original=original,
        key=key,
        licensees=("", *licensees),
        register=register,
        siblings=siblings,
        twins=twins,
        strength=strength or STRENGTH,
        suspects=suspects,
        error_rate=error_rate,
    )
    lines = _about(report, suspect)
    document = report.to_dict()
    if key is not None and evidence is not None and report.found:
        shown = write_evidence(report, evidence, key, signer)
        document["evidence"] = str(evidence)
        lines.append(
            f"{evidence} shows {_who(shown)}{'' if signer else ', unsigned'}. It holds the secret "
            "of this mark: anyone who has it can take the mark off."
        )
    emit(as_json, document, *lines)
    return 0 if report.found else NOT_FOUND


def _check(
    suspect: str,
    evidence: Path,
    models: dict[str, Any],
    manifest: Path | None,
    public_key: Path | None,
    as_json: bool,
) -> int:
    """Checks what somebody claims to have found."""
    from unmergeable.tracing.evidence import check_evidence

    report = check_evidence(evidence, suspect, **models, manifest=manifest, public_key=public_key)
    words = {True: "agrees", False: "DIFFERS", None: "not shown"}
    lines = [f"{words[fact.holds]}: {fact.name}: {fact.said}" for fact in report.facts]
    if report.agrees:
        lines.append(f"The evidence agrees: {suspect} contains {_who(report)}.")
    else:
        wrong = ", ".join(fact.name for fact in report.facts if fact.holds is False)
        lines.append(f"The evidence does NOT agree: {wrong}.")
    emit(as_json, report.to_dict(), *lines)
    return 0 if report.agrees else NOT_FOUND


def _about(report: TraceReport, suspect: str) -> list[str]:
    """What people are told."""
    lines = []
    for one in report.traces:
        low, high = one.interval
        lines.append(
            f"{_who(one)}: z = {one.z:.1f}, p <= 1e{one.log10_p:.1f}"
            + (f", weight {one.weight:.3f} ({low:.3f} to {high:.3f})" if one.z > 3 else "")
        )
    if report.twins:
        lines.append(
            f"similarity {report.twins.similarity:.4f}; of {report.twins.twins} twins at most "
            f"{max(report.twins.others):.4f}: p = {report.twins.p:.3g}"
        )
    if report.siblings or not (report.traces or report.twins):
        shares = ", ".join(f"{weight:.3f} of {name}" for name, weight in report.composition.items())
        lines.append(f"a lead, and no proof: {shares} explain {report.explained:.0%} of {suspect}")
    if report.skipped:
        lines.append(f"not compared, of another shape: {len(report.skipped)} tensors")
    return [*lines, _answer(report, suspect)]


def _answer(report: TraceReport, suspect: str) -> str:
    if report.found and report.twins:
        return f"Found: {suspect} contains the expert rather than one of its twins."
    if report.found:
        return f"Found: {suspect} contains {_who(report.traces[0])}."
    if report.traces:
        return f"No evidence of any of {len(report.traces)} marks in {suspect}."
    return f"No evidence of the expert in {suspect}."


def _who(found: Trace | EvidenceReport) -> str:
    from unmergeable.errors import clip

    return f"the copy of {clip(found.licensee)}" if found.licensee else "the release to all"
