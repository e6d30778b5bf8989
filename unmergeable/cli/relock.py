"""`unmergeable relock`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import (
    NEW_PASSPHRASE,
    key_option,
    load,
    new_key_option,
    out_or_address_argument,
    workers_option,
)
from unmergeable.cli.output import emit, json_option, notice, progress_bar, tell_files


@click.command("relock", short_help="Move a locked model to another key.")
@click.argument("locked", metavar="LOCKED")
@out_or_address_argument
@key_option(required=True, text="The key it was locked with.")
@new_key_option
@workers_option
@json_option
def command(
    locked: str,
    out: str | Path,
    key_path: Path,
    new_key_path: Path,
    workers: int | str | None,
    as_json: bool,
) -> None:
    """Write LOCKED, locked again with another key, into the new folder OUT.

    Both may be addresses, such as s3://bucket/model.

    The open weights are on no disk meanwhile: tensor by tensor, in memory, the old lock is undone
    and the new one applied. The defences and their settings stay. From a lossless lock the new key
    gives the original back bit for bit; a lock that rounds, rounds again.

    A mark, and whatever else no key undoes, stays as it is. A mark is still the old key's: `trace`
    needs that one. A model whose last defence changed the architecture cannot be relocked.

    Copies of LOCKED that others have already still open with the old key. Anyone who has both
    OUT and LOCKED learns how one turns into the other, and neither key.

    A killed run leaves no OUT; the same command goes on from where it was.
    """
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import locate
    from unmergeable.defences.mark import MarkDefence
    from unmergeable.protection.relock import relock

    key, new_key = load(key_path), load(new_key_path, NEW_PASSPHRASE)
    folder = locate(locked)
    opened = open_folder(folder)
    with progress_bar() as progress:
        report = relock(folder, out, key, new_key, workers=workers, progress=progress)
    tell_files(report, opened.reasons)
    for link in report.lasting:
        whose = f", and is still of the key {key.id}" if link.defence == MarkDefence.name else ""
        notice(f"{link.defence} stays: no key undoes it{whose}")
    exact = report.manifest.lossless
    result = "the original's bits" if exact else "the original to within rounding"
    emit(
        as_json,
        {
            "out": str(report.out),
            "manifest": asdict(report.manifest),
            "exact": exact,
            "left_out": list(report.left_out),
            "missing": list(report.missing),
            "edited": list(report.edited),
            "lasting": [link.defence for link in report.lasting],
        },
        f"{report.out} is locked with key {report.manifest.key}, which gives {result} back. "
        f"{locked} still opens with key {key.id}.",
    )
