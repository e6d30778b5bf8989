"""`unmergeable merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmergeable.cli.options import key_option, load, numbers, out_or_address_argument, set_option
from unmergeable.cli.output import emit, json_option, notice, progress_bar

if TYPE_CHECKING:
    from unmergeable.checkpoint.remote import Place


def _list_methods(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from unmergeable.merging import mergekit_bridge
    from unmergeable.merging.in_memory import refusal
    from unmergeable.merging.methods import OWN, methods

    click.echo("From mergekit:")
    for known in mergekit_bridge.methods().values():
        needs = f" [base {known.base}]" if known.base else ""
        settings = ", ".join(
            f"{name}={'...' if p.required else p.default}" for name, p in known.settings.items()
        )
        click.echo(f"{known.name}{needs}: {settings or 'no settings'}")
    for title, names in (
        ("Our own, each after its paper:", list(OWN)),
        ("From other packages:", [name for name in methods() if name not in OWN]),
    ):
        if names:
            click.echo(title)
        for name in names:
            method = methods()[name]
            where = "audit only: it " if (why := refusal(method)) else "base required"
            settings = ", ".join(f"{key}={value}" for key, value in method.parameters.items())
            click.echo(
                f"{name} [{where}{why}]: {settings or 'no settings'} "
                f"({method.title}, {method.paper})"
            )
    context.exit()


@click.command("merge", short_help="Merge models, openly or under a key.")
@out_or_address_argument
@click.option("--method", required=True, help="A merge method; see --list-methods.")
@click.option(
    "--model", "models", metavar="MODEL", multiple=True, required=True, help="May be repeated."
)
@click.option("--base", metavar="MODEL", help="The base that task vectors are taken from.")
@set_option("A parameter of the method: weight=0.5, or one value per model: weight=0.7,0.3.")
@key_option(required=False, text="Merge inside the lock that this key drew.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of methods that draw.")
@click.option(
    "--allow-mismatch",
    is_flag=True,
    help="Merge models whose configs or tokenizers disagree on what weights mean; else refused.",
)
@click.option(
    "--allow-non-finite", is_flag=True, help="Carry NaN and infinite weights along; else refused."
)
@click.option(
    "--list-methods",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_methods,
    help="Print the methods with their parameters.",
)
@json_option
def command(
    out: str | Path,
    method: str,
    models: tuple[str, ...],
    base: str | None,
    settings: dict[str, str],
    key_path: Path | None,
    seed: int,
    allow_mismatch: bool,
    allow_non_finite: bool,
    as_json: bool,
) -> None:
    """Merge models into the new folder OUT with mergekit's methods or our own.

    Models, base and OUT may be addresses, such as s3://bucket/model.

    mergekit's stream tensor by tensor; our own (tsv, iso_c, wudi, ...) hold all models in memory.
    Models whose configs or tokenizers disagree on what weights mean are refused; what may be meant,
    such as another end token, is said on stderr.

    Without --key this is what any merge tool does, and a locked input ruins the result. With the
    key of a locked input, open inputs and the base are first moved into its lock, and so are inputs
    that the key locked apart: the merge is then as good as one of open models, and OUT has the lock
    of the first locked input.

    \b
      unmergeable merge OUT --method ties --base BASE \\
          --model mine-locked --model theirs --set weight=0.5 --key owner.key
    """
    from unmergeable.checkpoint.hub import locate
    from unmergeable.merging.merge import merge

    key = load(key_path) if key_path else None
    paths = [locate(model) for model in models]
    if key is None:
        _warn_of_locks([*paths, *([] if base is None else [locate(base)])])
    with progress_bar() as progress:
        report = merge(
            paths,
            out,
            method,
            base=base,
            parameters=numbers(settings),
            key=key,
            seed=seed,
            allow_mismatch=allow_mismatch,
            allow_non_finite=allow_non_finite,
            progress=progress,
        )
    for note in report.notes:
        notice(note)
    moved = f"; moved into the lock: {', '.join(report.moved)}" if report.moved else ""
    emit(
        as_json,
        {
            "out": str(report.out),
            "method": report.method,
            "locked": report.locked,
            "moved": list(report.moved),
            "notes": list(report.notes),
        },
        f"{report.out} is the {report.method} merge"
        f"{', locked with the same key' if report.locked else ''}{moved}.",
    )


def _warn_of_locks(paths: Sequence[Place]) -> None:
    """Says what becomes of a merge of locked models without their key."""
    from unmergeable.checkpoint.folder import MANIFEST
    from unmergeable.checkpoint.manifest import read_manifest
    from unmergeable.checkpoint.small_files import is_there

    locks = [read_manifest(p).reversible if is_there(p / MANIFEST) else () for p in paths]
    if locks[0] and all(lock == locks[0] for lock in locks):
        notice("all of these are of one line: OUT stays in its lock, and --key lets you unlock it.")
        return
    for path, lock in zip(paths, locks, strict=True):
        if lock:
            notice(f"{path} is locked, and no key was given: expect a ruined merge.")
