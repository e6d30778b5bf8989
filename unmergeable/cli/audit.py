"""`unmergeable audit`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from unmergeable.cli.options import device_option, key_option, load, processes_option
from unmergeable.cli.output import emit, json_option, notice, progress_bar

# The answers' exit codes. 1 to 4 are every command's; this one alone has three answers.
CODES = {"holds": 0, "broken": 1, "undecided": 5}


@click.command("audit", short_help="Prove it: what is a merge worth, what does theft cost?")
@click.argument("protected", metavar="PROTECTED")
@click.option("--base", metavar="MODEL", required=True, help="The public base.")
@click.option(
    "--original", metavar="MODEL", required=True, help="The unprotected expert, which you have."
)
@click.option(
    "--peer",
    "peers",
    metavar="MODEL",
    multiple=True,
    required=True,
    help="What the thief merges with: another fine-tune of the base. May be repeated.",
)
@click.option(
    "--tasks",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="What models are scored on: a YAML file, see docs/tasks.md.",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where report.json, report.html and report.md go.",
)
@click.option("--quick", is_flag=True, help="A named subset of the ensemble, for a first look.")
@key_option(required=False, text="Check as well that this key gives the original back.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where measurements are kept. Default: $UNMERGEABLE_CACHE or ~/.cache/unmergeable.",
)
@click.option(
    "--stealer",
    is_flag=True,
    help="Also play Merger-as-a-Stealer: plant secrets, refuse, merge, ask. Trains two models.",
)
@device_option("Where models are run, and merges made.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of merges and attacks.")
@processes_option(
    "Processes that measure, each with models of its own in memory; or a Ray cluster whose "
    "machines see models, data and cache under the same paths."
)
@json_option
def command(
    protected: str,
    base: str,
    original: str,
    peers: tuple[str, ...],
    tasks: Path,
    out: Path,
    quick: bool,
    key_path: Path | None,
    cache: Path | None,
    stealer: bool,
    device: str,
    seed: int,
    workers: str,
    as_json: bool,
) -> int:
    """Measure what a merge of PROTECTED is worth, and what the cheapest theft of it costs.

    Checks first that the audit can tell anything: that the experts learned, that the open expert
    merges well, that our attack undoes a lock. Then merges PROTECTED with the peers, as released
    and after every attack that the inputs allow, by every merge method there is, with a sweep of
    coefficients; and compares with what the open expert's merges are worth.

    \b
      unmergeable audit my-model-locked --base base --original my-model \\
          --peer theirs --tasks tasks.yaml --out report

    Everything measured is kept in the cache by its content: run the same command again after an
    interruption, and it goes on. With --workers cells are measured side by side, and the report
    is the same but for seconds, which are those of one worker beside the others.

    Exit code 1 means that the protection is broken. 0 means that it holds, by what was run: every
    attack of the ensemble ran to its end, every control passed, PROTECTED still does its task, and
    no interval of theft reaches half of the open merge. 5 means undecided: this audit cannot tell,
    and says what would. A part of the ensemble, as --quick runs, never says that a protection
    holds.
    """
    from unmergeable.models.process import restart_once

    restart_once()
    from unmergeable.auditing.audit import audit

    with progress_bar() as progress:
        report = audit(
            protected,
            base=base,
            original=original,
            peers=peers,
            tasks=tasks,
            preset="quick" if quick else "standard",
            key=load(key_path) if key_path else None,
            cache=cache,
            seed=seed,
            stealer=stealer,
            device=device,
            workers=workers,
            command=" ".join(["unmergeable", *sys.argv[1:]]),
            progress=progress,
        )
    paths, document = report.save(out), report.to_dict()
    for flag in document["flags"]:
        notice(f"{flag['severity']} flag, {flag['name']}: {flag['what']}")
    emit(as_json, {**document}, str(report), f"\n{paths['html']}: open it in a browser.")
    return CODES[report.verdict["answer"]]
