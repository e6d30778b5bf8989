"""`unmergeable unlock`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.adapters import carry, locked_model_option
from unmergeable.cli.options import key_option, load, out_or_address_argument, workers_option
from unmergeable.cli.output import emit, json_option, notice, progress_bar, tell_files


@click.command("unlock", short_help="Give the original back.")
@click.argument("protected", metavar="PROTECTED")
@out_or_address_argument
@key_option(required=True, text="The key it was locked with.")
@locked_model_option("PROTECTED is a PEFT adapter that runs on this locked model.")
@workers_option
@json_option
def command(
    protected: str,
    out: str | Path,
    key_path: Path,
    locked: str | None,
    workers: int | str | None,
    as_json: bool,
) -> None:
    """Write the original of PROTECTED, a locked folder, into the new folder OUT.

    Both may be addresses, such as s3://bucket/model.

    From a lossless lock the weights come back bit for bit, which is checked with their digest in
    the manifest. From a general lock they come back to within rounding. What was trained stays
    trained.

    A config, tokenizer, template or code that is not what was locked is refused by name. Edited
    cards and licences go along. What is missing is said. A folder whose manifest is of version 5 or
    6 is unlocked after its seal alone was checked, and that is said: its digests were others.
    """
    if locked is not None:
        carry(protected, out, key_path, locked, as_json, back=True)
        return
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import locate
    from unmergeable.protection.protect import unlock

    key = load(key_path)
    folder = locate(protected)
    opened = open_folder(folder)
    with progress_bar() as progress:
        report = unlock(folder, out, key, workers=workers, progress=progress)
    tell_files(report, opened.reasons)
    for link in report.lasting:
        notice(f"{link.defence} stays: no key undoes it")
    if not report.checked:
        notice(
            "its manifest is of an older version, whose digests this release cannot check: the "
            "seal fits the key, but nothing shows that weights and files are those that were locked"
        )
    if report.exact:
        sentence = "its weights are the original's bit for bit (same digest)"
    elif report.checked:
        sentence = "its weights are the original's to within rounding: not all of it was lossless"
    else:
        sentence = "its weights are the original's if nobody changed them since they were locked"
    emit(
        as_json,
        {
            "out": str(report.out),
            "exact": report.exact,
            "checked": report.checked,
            "weights": report.weights,
            "left_out": list(report.left_out),
            "missing": list(report.missing),
            "edited": list(report.edited),
            "lasting": [link.defence for link in report.lasting],
        },
        f"{report.out} is unlocked; {sentence}.",
    )
