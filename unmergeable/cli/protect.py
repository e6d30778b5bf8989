"""`unmergeable protect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmergeable.cli.adapters import carry, locked_model_option, mark
from unmergeable.cli.options import (
    key_option,
    load,
    model_argument,
    out_or_address_argument,
    passphrase_of,
    set_option,
    workers_option,
)
from unmergeable.cli.output import emit, json_option, notice, progress_bar

if TYPE_CHECKING:
    from unmergeable.settings import Setting


class _Protect(click.Command):
    """Its help ends with every defence and its settings, from the registry."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per defence."""
        from unmergeable.defences.mark import MarkDefence
        from unmergeable.defences.registry import (
            COMMON,
            finished_defences,
            gauge_defences,
            rebuilds,
        )

        needs = {n: ", needs --base" for n, one in gauge_defences().items() if one.needs_base}
        needs |= dict.fromkeys(rebuilds(), ", needs --data, changes the architecture, comes last")
        needs[MarkDefence.name] = ", needs --base, comes first"
        for name, defence in finished_defences().items():
            with formatter.section(f"--defence {name} ({defence.title}{needs.get(name, '')})"):
                formatter.write_dl(_options(defence.settings))
        with formatter.section("every defence"):
            formatter.write_dl(_options(COMMON))


def _options(settings: Mapping[str, Setting]) -> list[tuple[str, str]]:
    from unmergeable.settings import described

    return [(f"--set {name}=", text) for name, text in described(settings)]


@click.command("protect", cls=_Protect, short_help="Lock a model.")
@model_argument
@out_or_address_argument
@key_option(required=True, text="The owner's key; `unmergeable keygen` makes one.")
@click.option(
    "--defence",
    default="lock",
    show_default=True,
    help="Which defence, or several in order, as A+B; see below.",
)
@click.option("--base", metavar="MODEL", help="The public base, for defences that look at it.")
@click.option(
    "--licensee", metavar="NAME", help="Whose copy this is, for a mark; nobody's if not given."
)
@click.option(
    "--register",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The list of licensees, encrypted under the key; NAME joins it, and it is made where "
    "there is none. See `unmergeable licensees`.",
)
@click.option(
    "--data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Unlabelled texts, one a line, or .jsonl, or a folder of images: for defences that look "
    "at activations.",
)
@locked_model_option("MODEL is a PEFT adapter of an open model: carry it into this locked model.")
@click.option(
    "--card",
    "with_card",
    is_flag=True,
    help="Add to OUT's README.md what was done, tags, and --base if it is a Hub id; `unlock` takes "
    "it out again.",
)
@click.option("--contact", metavar="TEXT", default="", help="With --card: whom to ask.")
@click.option("--license", metavar="ID", default="", help="With --card: as the Hub names it.")
@click.option("--license-name", metavar="NAME", default="", help="With --card: of another licence.")
@click.option("--license-link", metavar="URL", default="", help="With --card: where it is.")
@set_option("A setting of the defence; in a chain, A.NAME=VALUE. May be repeated.")
@click.option(
    "--allow-non-finite", is_flag=True, help="Carry NaN and infinite weights along; else refused."
)
@workers_option
@click.option(
    "--sign",
    "private_key",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Sign OUT with this key when it is complete; see `unmergeable sign`.",
)
@json_option
def command(
    model: str,
    out: str | Path,
    key_path: Path,
    defence: str,
    base: str | None,
    licensee: str | None,
    register: Path | None,
    data: Path | None,
    locked: str | None,
    with_card: bool,
    contact: str,
    license: str,
    license_name: str,
    license_link: str,
    settings: dict[str, str],
    allow_non_finite: bool,
    workers: int | str | None,
    private_key: Path | None,
    as_json: bool,
) -> None:
    """Write a protected copy of MODEL, a folder or a Hub id, into the new folder OUT.

    Both may be addresses, such as s3://bucket/model.

    OUT is an ordinary model folder: same files, same shards, same config, plus unmergeable.json,
    which holds nothing secret. It loads wherever MODEL loads and computes the same. A killed run
    leaves no OUT; the same command goes on from where it was. The key undoes it: unlock.

    \b
      unmergeable protect expert out --key owner.key
      unmergeable protect expert out --key owner.key --set kind=general
      unmergeable protect expert out --key owner.key --defence params+mergelock \\
                          --base base --set params.variant=symmetric

    A mark is for finding your expert in what others make of it, and for telling whose copy leaked:
    see `unmergeable trace`.

    \b
      unmergeable protect expert for-alice --key owner.key --defence mark+lock --base base \\
                          --licensee alice --register copies.register

    Every lock is drawn apart, from the key and a public salt: models locked with one key merge with
    each other under that key only, unless they are of one line (--set line=NAME).

    An adapter follows its model. What it is in locked coordinates, only the key says: without it an
    adapter of the open model does not fit the locked one. Do not carry an adapter that is public in
    its open form: who holds both forms reads the lock of the parts that it touches.

    \b
      unmergeable protect adapter out --key owner.key --model expert-locked

    An adapter can have a mark, too. Mark it first if it is to follow a locked model.

    \b
      unmergeable protect adapter for-alice --key owner.key --defence mark --base base \\
                          --licensee alice

    These defences stop unmodified merge tools. Anyone who aligns OUT to its public base first
    undoes each of them in seconds, without data.
    """
    if private_key is not None and (locked is not None or isinstance(out, str)):
        raise click.UsageError("--sign goes with a model that is written to this machine.")
    about_card = (contact, license, license_name, license_link)
    if any(about_card) and not with_card:
        raise click.UsageError("--contact, --license, --license-name, --license-link: add --card.")
    if licensee is not None:
        settings = settings | {"licensee": licensee}
    if locked is not None:
        if defence != "lock":
            raise click.UsageError("--model carries an adapter. Mark it first, without --model.")
        carry(model, out, key_path, locked, as_json, back=False, allow_non_finite=allow_non_finite)
        return
    from unmergeable.checkpoint.adapter_folder import is_adapter

    if defence == "mark" and is_adapter(model):
        if with_card or private_key is not None:
            raise click.UsageError("--card and --sign go with a model, not with an adapter.")
        mark(model, out, key_path, base, settings, register, as_json)
        return
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import locate
    from unmergeable.protection.card import Card
    from unmergeable.protection.protect import protect
    from unmergeable.protection.signing import Signer

    signer = private_key and Signer(private_key, partial(passphrase_of, private_key))
    key = load(key_path)
    folder = locate(model)
    opened = open_folder(folder)
    with progress_bar() as progress:
        report = protect(
            folder,
            out,
            key,
            defence=defence,
            settings=settings,
            base=base,
            data=data,
            register=register,
            card=Card(*about_card) if with_card else None,
            allow_non_finite=allow_non_finite,
            workers=workers,
            progress=progress,
        )
    signed = signer.sign(str(report.out)) if signer else None
    for name in report.left_out:
        notice(f"not copied, as {opened.reasons.get(name, 'it changed meanwhile')}: {name}")
    total = sum(bits for spaces in report.bits.values() for bits in spaces.values())
    spaces = dict.fromkeys(name for spaces in report.bits.values() for name in spaces)
    emit(
        as_json,
        {
            "out": str(report.out),
            "manifest": asdict(report.manifest),
            "secret_bits": report.bits,
            "left_out": list(report.left_out),
            "signature": signed and str(signed.signature),
        },
        f"{report.out} is protected by {report.manifest.title} with key {report.manifest.key}: "
        f"{total:,.0f} bits of secret in the spaces {', '.join(spaces)}.",
        *(
            f"{link.defence} measured: {link.measured}"
            for link in report.manifest.chain
            if link.measured
        ),
        *([f"It is signed, in {signed.signature.name}."] if signed else []),
        f"Check it: unmergeable verify {model} {out} --key {key_path}",
    )
