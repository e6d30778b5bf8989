"""`unmergeable relocate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import device_option, key_option, load, out_argument
from unmergeable.cli.output import emit, json_option, notice, progress_bar


@click.command("relocate", short_help="Make a private base to fine-tune from.")
@click.argument("base", metavar="BASE")
@out_argument
@click.option(
    "--data",
    metavar="TEXT",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Generic texts, one per line, or JSONL with text: 2,000 or more, better ten times that.",
)
@key_option(required=True, text="What is drawn comes from it: the same key draws the same again.")
@click.option(
    "--effort",
    type=click.Choice(["low", "medium", "high"]),
    default="medium",
    show_default=True,
    help="How long it grows, and whether its inner states are disturbed on the way (all but low).",
)
@click.option(
    "--expert",
    metavar="MODEL",
    help="A fine-tune of the public base, to be carried over to BASE, a private one.",
)
@device_option("Where it trains.")
@json_option
def command(
    base: str,
    out: Path,
    data: Path,
    key_path: Path,
    effort: str,
    expert: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Make a private base OUT from the public BASE: about the same function in unrelated weights.

    Experimental: experts of OUT lose several points of accuracy so far.

    \b
      unmergeable relocate BASE private --data texts.txt --key owner.key
      unmergeable train --base private --data task.jsonl --out mine
      unmergeable protect mine released --key owner.key
      unmergeable relocate private other --expert OLD --data texts.txt --key owner.key

    The blocks of BASE are destroyed and grown again on your texts, until they do what they did.
    Experts are fine-tuned from OUT as from any base. They are meant to merge with each other, and
    not with what others fine-tuned from BASE, aligned or not. It takes some minutes of two cores
    for a model of 22 million weights, once. Measure what it costs your experts.

    This raises a price and is no proof: with generic text and some minutes, a thief who pulls your
    expert back to BASE may still get a part of it. The page "A private base" of the documentation
    says what was measured, on which models, and when it would pay.

    With --expert BASE is a private base, and OUT the expert, carried over to it by distillation on
    your texts, some of which should be of its task. It may be published as any expert.

    Without --expert, OUT never travels: who has it can merge with everything that you fine-tune
    from it. Beside the model it holds relocation.json, with what was measured. A run that was
    interrupted goes on with the same command.
    """
    from unmergeable.models.process import restart_once

    restart_once(training=True)
    from unmergeable.relocation.relocate import relocate

    key = load(key_path)
    with progress_bar() as progress:
        report = relocate(
            base, out, data, key, expert=expert, effort=effort, device=device, progress=progress
        )
    if expert is None:
        notice(f"Keep {report.out} to yourself: who has it can merge with all that comes from it.")
    emit(
        as_json,
        {**asdict(report), "out": str(report.out)},
        f"{report.out} computes what {expert or base} does, but for {report.error:.1%} of the "
        f"variance of its last states on held-out text. Its layers' weights are "
        f"{report.distance:.2f} times their own length away. It took {report.seconds:.0f} s, on "
        f"{report.texts} texts.",
    )
