"""`unmergeable bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import device_option, processes_option
from unmergeable.cli.output import emit, json_option, notice

SEEDS = 3


@click.command("bench", short_help="Every published defence on real models, in one table.")
@click.argument("benchmark", type=click.Choice(["field"]))
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME|FILE",
    help="One of ours, or a YAML file of models of your own; may be repeated.",
)
@click.option("--defence", "rows", multiple=True, metavar="NAME", help="May be repeated.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="An attack or a merge method; may be repeated."
)
@click.option("--quick", is_flag=True, help="The part to begin with: fewer coefficients, no data.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help=f"Of training-time defences. Default: {SEEDS}, and 1 with --quick.",
)
@processes_option("Processes, or a Ray cluster whose machines share the cache folder.")
@device_option("Where models are run and trained.")
@click.option("--page", "page_only", is_flag=True, help="Run nothing; write what is kept in --out.")
@click.option(
    "--check",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Measure N of the cells kept in --out again, drawn at random; exit code 1 if any differs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what --check draws.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("field"),
    show_default=True,
    help="Where the cells are kept, and results.md, its figures and results.html go.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where artefacts are kept. Default: $UNMERGEABLE_CACHE or ~/.cache/unmergeable.",
)
@json_option
def command(
    benchmark: str,
    suites: tuple[str, ...],
    rows: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    seeds: int | None,
    workers: str,
    device: str,
    page_only: bool,
    count: int | None,
    seed: int,
    out: Path,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Measure published defences against merge tools and attacks, on real models.

    Trains experts of real models on tasks that are built from packages, protects one by every
    defence, merges it with the others by every method, as released and after each attack, and
    writes one page, in Markdown and, to sort and to filter, in HTML. Whatever was measured is kept
    by the hash of its inputs: run the same command again after an interruption, and it goes on; run
    it with another --suite, and the page shows both.

    \b
      unmergeable bench field --suite encoder --quick
      unmergeable bench field --suite encoder --defence lock --only align
      unmergeable bench field --page --out docs
      unmergeable bench field --suite encoder --check 30 --out docs
      unmergeable bench field --suite mine.yaml

    A file names a base, experts (folders, Hub ids, or data to train them on), tasks as an audit's
    file has them, and defences; see docs/field.md. It is checked first: what is missing, an expert
    of another base, or one that does its task no better than the base, stops the run before
    anything is protected or merged.

    Cells are kept in OUT/results-SUITE.jsonl.gz, from which alone the page is written. Exit code 1
    means that --check found a cell that does not agree. Exit code 2 means that no suite could be
    run.
    """
    from unmergeable.models.process import restart_once

    restart_once(training=True)
    from unmergeable.bench.field import page
    from unmergeable.bench.field.check import check
    from unmergeable.bench.field.defences import chosen_defences
    from unmergeable.bench.field.run import Order, Outcome, chosen_suites, run
    from unmergeable.bench.field.suites import SUITES
    from unmergeable.evaluation import store
    from unmergeable.models.device import running_on

    folder = store.root(cache)
    order = Order(
        chosen_suites(suites),
        chosen_defences(rows) if rows else (),
        folder,
        quick,
        seeds or (1 if quick else SEEDS),
        only,
        workers,
        out,
    )
    if count is not None:
        with running_on(device):
            found = check(order.suites, out, folder, count, seed=seed, quick=quick, say=notice)
        differ = sum(not one.agrees for one in found)
        sentence = f"{len(found) - differ} of {len(found)} cells agree."
        emit(as_json, {"seed": seed, "cells": [asdict(one) for one in found]}, sentence)
        return 1 if differ else 0
    outcome = Outcome()
    if not page_only:
        with running_on(device):
            outcome = run(order, notice)
    own = any(suite.own for suite in order.suites)
    shown = [suite.name for suite in order.suites] if own else [*SUITES]
    written = page.write(out, refused=outcome.refused, suites=shown)
    document = {
        "page": str(written),
        "measured": outcome.measured,
        "known": outcome.known,
        "refused": outcome.refused,
    }
    emit(as_json, document, f"{outcome.measured} cells measured, {outcome.known} known. {written}")
    return 2 if outcome.refused and len(outcome.refused) == len(order.suites) else 0
