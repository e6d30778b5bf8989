"""Train a base on a task, with or without a defence; what `unmergeable train` calls."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences.registry import training_defence
from unmergeable.defences.training_defence import NoDefence, TrainingDefence
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.evaluation.heads import Head
from unmergeable.evaluation.store import file_hash
from unmergeable.extras import optional
from unmergeable.models.device import AUTO, computes_bfloat16, current, running_on
from unmergeable.progress import Progress, silent
from unmergeable.protection.protect import architecture_of, record
from unmergeable.training.checkpoints import begin, tidy, work_folder
from unmergeable.training.config import TrainConfig
from unmergeable.training.data import Items, read_items
from unmergeable.training.load import Loaded, Lora, adapt, load
from unmergeable.training.output import (
    write_adapter,
    write_history,
    write_model,
    write_with_classifier,
)
from unmergeable.training.trainer_run import Run
from unmergeable.version import __version__


@dataclass(frozen=True)
class TrainReport:
    """What a run did.

    Attributes:
        out: the new folder.
        main: whether this is the process that wrote it.
        document: what training.json holds: the defence, its settings, and what was measured.
        notes: sentences for people.

    Examples:
        >>> quick = unmergeable.TrainConfig(steps=1)
        >>> unmergeable.train("base", "trained", "data.jsonl", config=quick).main
        True
    """

    out: Path
    main: bool
    document: Mapping[str, Any]
    notes: tuple[str, ...]


def train(
    base: str | Path,
    out: str | Path,
    data: str | Path | Items,
    *,
    defence: str = "none",
    settings: Mapping[str, Any] | None = None,
    validation: str | Path | Items | None = None,
    head: str | Path | Head | None = None,
    lora: Lora | None = None,
    config: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    resume: bool = False,
    device: str = AUTO,
    progress: Progress = silent,
) -> TrainReport:
    """Fine-tunes a base, and writes an ordinary model folder, or an adapter folder.

    Under `accelerate launch` or `torchrun` every process calls it, and one of them writes.

    Args:
        base: a model folder or a Hub id.
        out: the new folder. Checkpoints grow in `.OUT.training` beside it, which goes when it is
            complete.
        data: items, or where they are: see `read_items`.
        defence: the name of a `TrainingDefence`.
        settings: of the defence.
        validation: items to measure on; by default a tenth of the data, held out.
        head: a frozen head for labelled items: then what is trained has the base's tensors alone.
        lora: trains an adapter; None trains all weights.
        config: how long and how fast.
        resume: goes on from the last checkpoint of the same run.
        device: where it trains: "auto" (whatever accelerate offers), "cpu", "cuda", "cuda:N" or
            "mps".
        progress: is told how far it is.

    Returns:
        What was done; with what it measured.

    Raises:
        InputError: data, settings or a base that cannot be used; a run that diverged; a run to
            resume that was another one.
        UnsupportedError: a defence that needs the architecture's declaration, which is missing.

    Examples:
        >>> config = unmergeable.TrainConfig(steps=2, batch=2)
        >>> report = unmergeable.train("base", "tuned", "data.jsonl", config=config)
        >>> report.out.name
        'tuned'
    """
    transformers = optional("transformers")
    optional("accelerate")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    guard = training_defence(defence, settings)
    if lora and guard.no_lora:
        raise InputError(f"no --lora with this defence: {guard.no_lora}.")
    out, name, folder = Path(out), str(base), open_folder(resolve(base))
    items, held = _items(data, validation, config.seed)
    if head is not None and not isinstance(head, Head):
        head = Head(Path(head))
    _check_head(head, items)
    with ExitStack() as stack:
        stack.enter_context(running_on(device))
        arguments = _arguments(work_folder(out), config, lora)
        staging: Staging | None = None
        run: dict[str, Any] = {}
        start = None
        if arguments.process_index == 0:
            staging = stack.enter_context(Staging(out, None))
            stack.callback(tidy, work_folder(out))
            run = _fingerprint(folder, items, held, guard, head, lora, config)
            start = begin(work_folder(out), run, resume)
        transformers.set_seed(config.seed)
        loaded = load(folder, items, head, config)
        module = adapt(loaded, folder, lora) if lora else loaded.module
        work = Run(folder, loaded, module, guard, lora is not None, items, held, config)
        found = work.train(arguments, start, progress)
        document = {
            "format": 1,
            "title": f"{guard.title} on {Path(name).name}",
            "defence": guard.name,
            "settings": guard.chosen,
            "paper": guard.paper,
            "run": run,
            **found,
            "versions": _versions(),
        }
        notes = _notes(document, loaded, lora)
        measured = dict(document["measured"])
        if staging is not None:
            if lora:
                write_adapter(folder, module, name, staging)
            elif loaded.added:
                write_with_classifier(folder, module, staging)
            else:
                write_model(folder, module, loaded.names, staging)
            if not write_history(staging, document):
                notes.append("no training.png: install matplotlib for it.")
            if guard.name != NoDefence.name:
                named = Link(guard.name, dict(guard.chosen), lasting=True, measured=measured)
                record(staging, [named], _architecture(folder))
            staging.publish()
            shutil.rmtree(work_folder(out), ignore_errors=True)
        work.wait()
    return TrainReport(out.resolve(), staging is not None, document, tuple(notes))


def _architecture(folder: ModelFolder) -> dict[str, str]:
    """Family and class for the manifest; the class alone where nobody declared the family."""
    try:
        return architecture_of(Layout.of(folder.config, folder.shapes))
    except UnsupportedError:
        return {"family": "", "class": (folder.config.get("architectures") or [""])[0]}


def _items(
    data: str | Path | Items, validation: str | Path | Items | None, seed: int
) -> tuple[Items, Items]:
    items = data if isinstance(data, Items) else read_items(data)
    if validation is None:
        return items.split(seed)
    if not isinstance(validation, Items):
        validation = read_items(validation, items.classes)
    if validation.kind != items.kind:
        raise InputError(
            f"the validation items are of kind {validation.kind!r}, the data of {items.kind!r}."
        )
    return items, validation


def _check_head(head: Head | None, items: Items) -> None:
    """Refuses what would be found out only after the model is loaded."""
    if head is None:
        return
    if not items.labels:
        raise InputError(f"a head answers with classes, and the items are of kind {items.kind!r}.")
    if items.labels > head.classes:
        raise InputError(
            f"{head.path} has {head.classes} classes, and the data have {items.labels}."
        )


def _arguments(work: Path, config: TrainConfig, lora: Lora | None) -> Any:
    """The Trainer's arguments: offline, quiet, on whatever accelerate offers."""
    torch, transformers = optional("torch"), optional("transformers")
    device = current()
    cpu = device.type == "cpu" or os.environ.get("ACCELERATE_USE_CPU") in ("true", "True")
    if device.index is not None:  # the Trainer takes the first one otherwise, or all
        torch.cuda.set_device(device)
    default_rate = 3e-4 if lora else 2e-5
    half = config.precision == "bfloat16"
    if config.precision == "auto":
        half = computes_bfloat16(torch.device("cpu") if cpu else device)
    return transformers.TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=config.batch,
        per_device_eval_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.rate if config.rate is not None else default_rate,
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_grad_norm=1.0,
        weight_decay=0.0,
        seed=config.seed,
        bf16=half,
        use_cpu=cpu,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",  # set by `Run`, which knows how many steps there are
        save_strategy="no",
        save_total_limit=2,
        metric_for_best_model="loss",
        greater_is_better=False,
        eval_on_start=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not cpu,
    )


def _fingerprint(
    folder: ModelFolder,
    items: Items,
    held: Items,
    guard: TrainingDefence,
    head: Head | None,
    lora: Lora | None,
    config: TrainConfig,
) -> dict[str, Any]:
    """Everything that decides what a run computes, but for the number of processes."""
    return {
        "base": {h.path.name: file_hash(folder.local / h.path.name) for h in folder.files},
        "data": items.content_hash,
        "validation": held.content_hash,
        "head": head and head.content_hash,
        "defence": guard.name,
        "settings": dict(guard.chosen),
        "lora": lora and asdict(lora),
        "config": asdict(config),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    libraries = ("torch", "transformers", "accelerate")
    return {"unmergeable": __version__, **{name: version(name) for name in libraries}}


def _notes(document: Mapping[str, Any], loaded: Loaded, lora: Lora | None) -> list[str]:
    notes = [str(document["stopped"])] if document["stopped"] else []
    if loaded.reading.cut:
        notes.append(f"{loaded.reading.cut} items were longer than --tokens and were cut.")
    if loaded.added and not lora:
        notes.append(
            f"the folder has {len(loaded.added)} tensors of a classifier that the base lacks, so "
            "merge tools will not take the two together. --head keeps a head outside."
        )
    return notes
