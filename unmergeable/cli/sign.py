"""`unmergeable sign`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from unmergeable.cli.options import PASSPHRASE, passphrase_of
from unmergeable.cli.output import emit, json_option


@click.command("sign", short_help="Sign a folder, so that anyone can check its files.")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--private-key",
    required=True,
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Your key: ECDSA on P-256, P-384 or P-521. If it is encrypted, its passphrase is asked "
    f"for, or taken from ${PASSPHRASE}.",
)
@json_option
def command(folder: Path, private_key: Path, as_json: bool) -> None:
    """Sign all files of FOLDER, as OpenSSF Model Signing has it, into FOLDER/model.sig.

    Anyone who has your public key can check that no file was changed, removed or added since:
    `unmergeable verify --signature`, or the program of the package model-signing. Sign last, when
    the card is written; an earlier signature is replaced. Nothing goes over the network.

    \b
      openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.pem
      openssl pkey -in signing.pem -pubout -out signing.pub
      unmergeable sign release --private-key signing.pem
      unmergeable verify --signature release --public-key signing.pub
      model_signing verify key release --signature release/model.sig --public_key signing.pub
    """
    from unmergeable.protection.signing import sign

    report = sign(folder, private_key, partial(passphrase_of, private_key))
    emit(
        as_json,
        {"signature": str(report.signature), "key": report.key},
        f"{folder} is signed, in {report.signature.name}, with the key whose public half has the "
        f"SHA-256 {report.key}.",
    )
