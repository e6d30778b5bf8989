"""What commands print: results on stdout, everything else on stderr; with --json one document."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from unmergeable.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from unmergeable.progress import Progress, Status
    from unmergeable.protection.protect import UnlockReport
    from unmergeable.protection.relock import RelockReport


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json to a command."""
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there."
    )(function)


def emit(as_json: bool, document: dict[str, Any], *text: RenderableType) -> None:
    """Prints a result: the document for programs, or the text for people."""
    if as_json:
        plain = codecs.lookup(sys.stdout.encoding).name != "utf-8"
        click.echo(json.dumps(document, indent=2, ensure_ascii=plain, allow_nan=False))
        return
    from rich.console import Console

    # A pipe or a file has no width of its own; tables should not be cut for it.
    # Names of files and tensors may look like rich's markup; they are printed as they are.
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for part in text:
        console.print(part, soft_wrap=isinstance(part, str))


def print_error(sentence: str, as_json: bool, kind: str = "Error") -> None:
    """Prints an error on stderr and, for programs, as the document on stdout."""
    sentence = one_line(sentence)
    click.echo(f"unmergeable: {sentence}", err=True)
    print_document(sentence, as_json, kind)


def print_document(sentence: str, as_json: bool, kind: str) -> None:
    """Prints an error for programs alone."""
    if as_json:
        click.echo(json.dumps({"error": {"type": kind, "message": sentence}}, indent=2))


def notice(sentence: str) -> None:
    """Tells people something on stderr."""
    click.echo(sentence, err=True)


def tell_files(report: RelockReport | UnlockReport, reasons: Mapping[str, str]) -> None:
    """Tells people which files of a locked folder did not come along as they were."""
    from unmergeable.checkpoint.file_comparison import listed

    for name in report.left_out:
        notice(f"not copied, as {reasons.get(name, 'it was added after locking')}: {name}")
    if report.missing:
        notice(f"missing, though the original had them: {listed(report.missing)}")
    if report.edited:
        notice(f"edited or missing since it was locked: {listed(report.edited)}")


def stderr_console() -> Console:
    """A console for progress."""
    from rich.console import Console

    return Console(file=sys.stderr)


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A bar on stderr; where that is no terminal, a line when another part of the steps begins."""
    from rich.filesize import decimal
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = console or stderr_console()
    fields = ("{task.fields[amount]}", "{task.fields[left]}", "{task.description}")
    columns = (BarColumn(bar_width=24), *(TextColumn(field, markup=False) for field in fields))
    told = ""
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("", total=None, amount="", left="")

        def show(status: Status) -> None:
            nonlocal told
            unit = decimal if status.unit == "bytes" else str
            amount = f"{unit(status.done)}/{unit(status.total)}"
            left = "" if status.seconds_left is None else _time(status.seconds_left)
            bar.update(
                row, description=status.what, completed=status.done, total=status.total,
                amount=amount, left=left,
            )  # fmt: skip
            if not console.is_terminal and status.unit == "steps" and status.what != told:
                told = status.what
                print(f"[{amount}] {left:>11}  {status.what}", file=sys.stderr, flush=True)

        yield show


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 60 else f"{seconds / 60:.0f} min left"
