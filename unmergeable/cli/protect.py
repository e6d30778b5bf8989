"""`unmergeable protect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import (
    key_option,
    load,
    model_argument,
    out_argument,
    set_option,
    workers_option,
)
from unmergeable.cli.output import emit, json_option, notice, progress_bar


@click.command("protect", short_help="Lock a model.")
@model_argument
@out_argument
@key_option(required=True, text="The owner's key; `unmergeable keygen` makes one.")
@click.option("--defence", default="lock", show_default=True, help="Which defence; see below.")
@set_option("A setting of the defence; see below. May be repeated.")
@click.option(
    "--allow-non-finite", is_flag=True, help="Carry NaN and infinite weights along; else refused."
)
@workers_option
@json_option
def command(
    model: str,
    out: Path,
    key_path: Path,
    defence: str,
    settings: dict[str, str],
    allow_non_finite: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Write a locked copy of MODEL, a folder or a Hub id, into the new folder OUT.

    OUT is an ordinary model folder: same files, same shards, same config, plus unmergeable.json,
    which holds nothing secret. It loads wherever MODEL loads and computes the same. A killed run
    leaves no OUT; the same command goes on from where it was.

    \b
    --defence lock      draws a change of coordinates from the key: exact, reversible.
      --set kind=lossless   (default) permutations, signs and powers of two: no
                            weight is rounded, and unlock is exact to the bit.
      --set kind=general    rotations and real scales too; rounds once, so unlock
                            is exact to rounding.
      --set spaces=A,B,...  moves only these spaces (`unmergeable inspect MODEL`
                            names them; default: all). What is left stays in the
                            open model's coordinates, where merge tools find it.
                            A LoRA adapter of the open model fits the locked one
                            only if no space that its modules touch is moved. All
                            touch residual, so leave that alone first: spaces=ffn
                            keeps adapters of the attention fitting. The price:
                            embeddings and attention then merge as before.
      --set scales=auto     powers of two in the lossless kind: auto leaves them
                            out for float16 and float8; or true, false.

    The lock stops unmodified merge tools. Whoever aligns OUT to its public base first undoes it in
    seconds, without data.
    """
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import resolve
    from unmergeable.protection import protect

    key = load(key_path)
    folder = resolve(model)
    with progress_bar("locking", open_folder(folder).size) as advance:
        report = protect(
            folder,
            out,
            key,
            defence=defence,
            settings=settings,
            allow_non_finite=allow_non_finite,
            workers=workers,
            progress=advance,
        )
    for name in report.left_out:
        notice(f"not copied, as it may hold open weights: {name}")
    total = sum(report.bits.values())
    emit(
        as_json,
        {
            "out": str(report.out),
            "manifest": asdict(report.manifest),
            "secret_bits": report.bits,
            "left_out": list(report.left_out),
        },
        f"{report.out} is locked with key {report.manifest.key}: {total:,.0f} bits of secret in "
        f"the spaces {', '.join(report.bits)}.",
        f"Check it: unmergeable verify {model} {out} --key {key_path}",
    )
