"""`unmergeable keygen`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from unmergeable.cli.options import PASSPHRASE
from unmergeable.cli.output import emit, json_option


@click.command("keygen", short_help="Make a key.")
@click.argument("path", metavar="KEY", type=click.Path(path_type=Path))
@click.option(
    "--passphrase",
    "sealed",
    is_flag=True,
    help=f"Seal the key under a passphrase, asked for here or taken from ${PASSPHRASE}.",
)
@json_option
def command(path: Path, sealed: bool, as_json: bool) -> None:
    """Make a key: 32 random bytes in the new file KEY, readable by you alone.

    One key can lock many models, and each gets a lock of its own. Only `merge --key` merges them,
    unless they were locked as one line (protect --set line=NAME). Keep a copy of the key in a safe
    place: nothing else gives an original back from its locked form.
    """
    from unmergeable.errors import InputError
    from unmergeable.keys.key import keygen

    passphrase = None
    if sealed:
        passphrase = os.environ.get(PASSPHRASE)
        if not passphrase and not sys.stdin.isatty():
            raise InputError(f"no passphrase: set ${PASSPHRASE}, or run this on a terminal.")
        passphrase = passphrase or click.prompt(
            "Passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    key = keygen(path, passphrase)
    emit(
        as_json,
        {"key": str(path), "id": key.id, "sealed": sealed},
        f"Key {key.id} is in {path}. Keep a copy in a safe place.",
    )
