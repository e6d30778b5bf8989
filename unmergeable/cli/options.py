"""Options that several commands share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmergeable.cli.output import notice
from unmergeable.settings import from_text

if TYPE_CHECKING:
    from unmergeable.keys.key import Key

PASSPHRASE = "UNMERGEABLE_PASSPHRASE"
NEW_PASSPHRASE = "UNMERGEABLE_NEW_PASSPHRASE"

model_argument = click.argument("model", metavar="MODEL")


class _Place(click.ParamType):  # type: ignore[type-arg]
    """A path, or an address such as s3://bucket/model, whose slashes a path would lose."""

    name = "place"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> str | Path:
        """See `click.ParamType`."""
        from unmergeable.checkpoint.remote import is_url

        return value if is_url(value) else Path(value)


class _Folder(click.ParamType):  # type: ignore[type-arg]
    """A path; an address is refused, of which a path would make folders here."""

    name = "folder"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        """See `click.ParamType`."""
        from unmergeable.checkpoint.remote import is_url

        if is_url(value):
            self.fail(f"{value} is an address, and this command writes to this machine.")
        return Path(value)


out_argument = click.argument("out", metavar="OUT", type=_Folder())
out_or_address_argument = click.argument("out", metavar="OUT", type=_Place())


def key_option(*, required: bool, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --key."""
    return click.option(
        "--key",
        "key_path",
        metavar="KEY",
        required=required,
        type=click.Path(path_type=Path),
        help=f"{text} If it is sealed, its passphrase is asked for, or taken from ${PASSPHRASE}.",
    )


class _Workers(click.ParamType):  # type: ignore[type-arg]
    """A number of threads, or a Ray cluster."""

    name = "workers"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> int | str:
        """See `click.ParamType`."""
        if isinstance(value, str) and (value == "ray" or value.startswith("ray://")):
            return value
        if not str(value).isdecimal() or not int(value):
            self.fail(f"{value!r} is no number from 1 on, nor ray or ray://HOST:PORT.")
        return int(value)


workers_option = click.option(
    "--workers",
    metavar="N|ray|ray://HOST:PORT",
    type=_Workers(),
    help="Threads, by default as many as processors are at hand; or the Ray cluster that this "
    "machine is part of, or the one at that address.",
)


def device_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --device."""
    return click.option(
        "--device",
        metavar="auto|cpu|cuda[:N]|mps",
        default="auto",
        show_default=True,
        help=f"{text} auto is the first accelerator, or else the CPU.",
    )


def processes_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --workers of a command whose work is done by processes."""
    return click.option(
        "--workers", default="1", show_default=True, metavar="N|ray|ray://HOST:PORT", help=text
    )


def set_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --set NAME=VALUE, which may be repeated."""
    return click.option(
        "--set", "settings", metavar="NAME=VALUE", multiple=True, callback=_pairs, help=text
    )


def _pairs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    pairs = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE.", context, option)
        pairs[name] = value
    return pairs


def numbers(settings: dict[str, str]) -> dict[str, Any]:
    """Reads the values of a merge method: JSON, or numbers with commas between."""
    read: dict[str, Any] = {}
    for name, text in settings.items():
        try:
            read[name] = from_text(text)
        except ValueError:
            message = f"--set {name}={text}: not a number or a list of numbers."
            raise click.BadParameter(message) from None
    return read


new_key_option = click.option(
    "--new-key",
    "new_key_path",
    metavar="KEY",
    required=True,
    type=click.Path(path_type=Path),
    help="The key to lock it with; `unmergeable keygen` makes one. If it is sealed, its passphrase "
    f"is asked for, or taken from ${NEW_PASSPHRASE}.",
)


def load(path: Path, variable: str = PASSPHRASE) -> Key:
    """Reads a key, asking for its passphrase where it is sealed and a person is there.

    A key file that others may read is said on stderr.

    Args:
        path: the key file.
        variable: of the environment, where the passphrase is looked for first.
    """
    from unmergeable.keys.key import ExposedKeyWarning, load_key

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ExposedKeyWarning)
        key = load_key(path, partial(passphrase_of, path, variable))
    for warning in found:
        if issubclass(warning.category, ExposedKeyWarning):
            notice(str(warning.message))
    return key


def passphrase_of(path: Path, variable: str = PASSPHRASE) -> str | None:
    """The passphrase of a key file, from the environment, or from a person who is there."""
    if given := os.environ.get(variable):
        return given
    if not sys.stdin.isatty():
        return None
    answer: str = click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return answer
