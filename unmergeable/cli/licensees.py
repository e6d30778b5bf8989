"""`unmergeable licensees`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import key_option, load
from unmergeable.cli.output import emit, json_option


@click.command("licensees", short_help="For whom were copies marked?")
@click.argument("register", metavar="REGISTER", type=click.Path(path_type=Path))
@key_option(required=True, text="The key that the copies were marked with.")
@json_option
def command(register: Path, key_path: Path, as_json: bool) -> None:
    """List the copies in REGISTER, which `protect --register` writes: for whom, of which expert.

    REGISTER is encrypted under the key, which notices any change. Without the key it says how many
    names there are about, and nothing else. Somebody who can write it can put an earlier one of
    yours in its place: keep it where you keep the key.

    An expert is named by the digest that `trace --json` calls its release.
    """
    from unmergeable.errors import clip
    from unmergeable.protection.register import licensees

    copies = licensees(register, load(key_path))
    emit(
        as_json,
        {"register": str(register), "copies": [asdict(copy) for copy in copies]},
        *(
            f"{clip(copy.licensee, 200)}: a copy of the expert {copy.release[:16]}"
            for copy in copies
        ),
    )
