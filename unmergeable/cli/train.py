"""`unmergeable train`."""

from __future__ import annotations

from pathlib import Path

import click

from unmergeable.cli.options import device_option, set_option
from unmergeable.cli.output import emit, json_option, notice, progress_bar


def _list_defences(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from unmergeable.defences.registry import training_defences
    from unmergeable.settings import described

    for defence in training_defences().values():
        click.echo(f"{defence.name}: {defence.title}{defence.paper and f', {defence.paper}'}")
        for name, text in described(defence.settings):
            click.echo(f"  --set {name}=... {text}")
        if defence.no_lora:
            click.echo(f"  no --lora: {defence.no_lora}")
    context.exit()


@click.command("train", short_help="Fine-tune with a defence that is learned.")
@click.option("--defence", default="none", show_default=True, help="See --list-defences.")
@click.option("--base", metavar="MODEL", required=True, help="A model folder or a Hub id.")
@click.option(
    "--data",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="JSONL with text; prompt and completion; or text and label. Or a folder of images, with "
    "one folder per class.",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder.",
)
@click.option(
    "--validation",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True),
    help="Items to measure on. Default: a tenth of the data, at most 256 items, held out.",
)
@click.option(
    "--head",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A frozen linear head (safetensors with weight and bias) for labelled items.",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    default="mean",
    show_default=True,
    help="What --head reads.",
)
@click.option("--lora", is_flag=True, help="Train a low-rank adapter instead of all weights.")
@click.option("--lora-rank", type=click.IntRange(1), default=16, show_default=True)
@click.option("--lora-alpha", type=float, default=16.0, show_default=True)
@click.option(
    "--lora-dropout", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True
)
@click.option(
    "--lora-targets",
    type=click.Choice(["attention", "all"]),
    default="attention",
    show_default=True,
    help="Q, K, V and O, or every linear layer.",
)
@set_option("A setting of the defence: see --list-defences.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps; instead of --epochs.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option(
    "--batch", type=click.IntRange(1), default=16, show_default=True, help="Items per pass."
)
@click.option(
    "--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Passes per step."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Peak learning rate. Default: 2e-5, with --lora 3e-4.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--tokens", type=click.IntRange(2), default=512, show_default=True, help="Texts are cut there."
)
@click.option(
    "--size",
    type=click.IntRange(1),
    help="Pixels a side of images, for a base without a preprocessor. Default: the model's own.",
)
@click.option("--no-end", is_flag=True, help="Do not teach the end-of-text token after an item.")
@click.option(
    "--every", type=click.IntRange(1), help="Steps between evaluations. Default: ten in the run."
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Evaluations in a row that may be worse than the best; 0: no early stop.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    default="auto",
    show_default=True,
    help="Of the forward pass; weights and optimiser are float32. auto is bfloat16 where the "
    "device has instructions for it.",
)
@device_option("Where it trains.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the same run.")
@click.option(
    "--list-defences",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_defences,
    help="Print the defences with their settings.",
)
@json_option
def command(
    defence: str,
    base: str,
    data: Path,
    out: Path,
    validation: Path | None,
    head: Path | None,
    pooling: str,
    lora: bool,
    lora_rank: int,
    lora_alpha: float,
    lora_dropout: float,
    lora_targets: str,
    settings: dict[str, str],
    steps: int | None,
    epochs: float,
    batch: int,
    accumulate: int,
    rate: float | None,
    seed: int,
    tokens: int,
    size: int | None,
    no_end: bool,
    every: int | None,
    patience: int,
    precision: str,
    resume: bool,
    device: str,
    as_json: bool,
) -> None:
    """Fine-tune MODEL on your data into the new folder DIR, with a defence against merging.

    \b
      unmergeable train --defence trap2 --base BASE --data task.jsonl --out mine --lora
      unmergeable train --base BASE --data task.jsonl --out control       (no defence)

    trap2 makes the model bad wherever a merge scales its change. arf keeps attention matrices away
    from the base, so that a lock on top is harder to undo: run `unmergeable protect` on DIR
    afterwards. mergeguard spreads the task over all weights and takes the largest changes back. All
    three are learned: look at the validation quality, and audit the result.

    DIR is an ordinary model folder with the base's tensors and dtypes, or with --lora an ordinary
    PEFT adapter. Of encoders and vision models people merge the trunk and keep the head: --head
    trains the trunk under a frozen head, which stays outside of DIR. training.json and training.png
    in DIR tell how the run went.

    It is transformers' Trainer: `accelerate launch --multi_gpu -m unmergeable train ...` spreads it
    over GPUs, `torchrun --nproc_per_node 2 -m unmergeable train ...` over processes on a CPU. A run
    that was interrupted goes on with the same command and --resume.
    """
    from unmergeable.models.process import restart_once

    restart_once(training=True)
    from unmergeable.evaluation.heads import Head
    from unmergeable.training.config import TrainConfig
    from unmergeable.training.load import Lora
    from unmergeable.training.run import train

    with progress_bar() as progress:
        report = train(
            base,
            out,
            data,
            defence=defence,
            settings=settings,
            validation=validation,
            head=Head(head, pooling) if head else None,  # type: ignore[arg-type]
            lora=Lora(lora_rank, lora_alpha, lora_dropout, lora_targets) if lora else None,  # type: ignore[arg-type]
            config=TrainConfig(
                steps=steps,
                epochs=epochs,
                batch=batch,
                accumulate=accumulate,
                rate=rate,
                seed=seed,
                tokens=tokens,
                size=size,
                end=not no_end,
                every=every,
                patience=patience,
                precision=precision,  # type: ignore[arg-type]
            ),
            resume=resume,
            device=device,
            progress=progress,
        )
    if not report.main:
        return
    for note in report.notes:
        notice(note)
    measured = report.document["measured"]
    before, after = measured["validation_base"], measured["validation"]
    emit(
        as_json,
        {
            "out": str(report.out),
            **{name: report.document[name] for name in ("defence", "settings", "measured")},
            "steps": report.document["steps"],
            "stopped": report.document["stopped"],
            "processes": report.document["processes"],
            "notes": list(report.notes),
        },
        f"{report.out} is the {'adapter' if lora else 'model'} after {report.document['steps']} "
        f"steps of {report.document['title']}.",
        f"On validation items: loss {before['loss']:.4g} -> {after['loss']:.4g}, right "
        f"{before['accuracy']:.1%} -> {after['accuracy']:.1%}.",
    )
