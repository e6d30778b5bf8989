"""What an audit is given: the models it is about, and what they are scored on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import FAR
from unmergeable.attacks.attack import Thief
from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.attacks.texts import in_order
from unmergeable.auditing import memory_plan
from unmergeable.auditing.candidates import Candidates, Model
from unmergeable.auditing.evaluator import Evaluator
from unmergeable.auditing.fitting import check_fits, fitted
from unmergeable.auditing.planned_steps import PlannedSteps
from unmergeable.auditing.race import ITEMS, Reference
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score, cast_once
from unmergeable.evaluation.task import Split, Task
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.evaluation.value import Value, merge_value
from unmergeable.merging import config_differences, tokenizer_differences
from unmergeable.merging.method import Corpus, Merged, State
from unmergeable.models.device import current
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.offloaded_state import OffloadedState
from unmergeable.models.weights import Weights

if TYPE_CHECKING:
    import torch

# Items of each unlabelled pool and of each peer's labelled data that an attack is given.
MOST_ITEMS = 2000
# What a config says of words and labels, where a model may have more than its base.
_SIZES = ("vocab_size", "type_vocab_size", "max_position_embeddings", "num_labels", "id2label")


@dataclass(frozen=True, eq=False)
class AuditInputs:
    """Models, tasks, and what every part of an audit needs.

    Attributes:
        protected: the released folder.
        base: the public base's.
        original: the unprotected expert's.
        peers: the thief's experts'.
        tasks: what models are scored on.
        layout: of all models.
        evaluator: scores models in memory.
        candidates: merges them.
        thief: what an attack may look at.
        singles: test scores of "base", "original", "protected", "peer 1", ...
        reference: validation scores that shares are measured against.
        digests: of each folder's weights.
        parameters: of each model.
        distances: of the original and the peers to the base, relative to its norm, by name.
        distant: of models too far from the base for a fine-tune of it, a sentence, by name.
    """

    protected: ModelFolder
    base: ModelFolder
    original: ModelFolder
    peers: Sequence[ModelFolder]
    tasks: TaskFile
    layout: Layout
    evaluator: Evaluator
    candidates: Candidates
    thief: Thief
    singles: Mapping[str, Sequence[Score]]
    reference: Reference
    digests: Mapping[str, str]
    parameters: int
    distances: Mapping[str, float]
    distant: Mapping[str, str]
    seed: int

    @property
    def experts(self) -> list[Score]:
        """On each task, the score of the expert whose task it is."""
        owners = enumerate(self.tasks.owners)
        return [self.singles[self.names[owner]][index] for index, owner in owners]

    @cached_property
    def differing(self) -> list[str]:
        """What makes the release compute otherwise than its weights do in the base's place."""
        return differing(self.base, self.protected)

    @property
    def attacked(self) -> ModelFolder:
        """The release as a thief reads it: by the base's config, should its own say otherwise."""
        own = self.protected.config
        if not self.differing:
            return self.protected
        sizes = {name: own[name] for name in _SIZES if name in own}
        return replace(self.protected, config={**self.base.config, **sizes})

    @property
    def device(self) -> torch.device:
        """Where models are run, and merges made."""
        return self.candidates.runner.device

    @property
    def names(self) -> list[str]:
        """What the experts are called, by the numbers that tasks know their owners by."""
        return _names(len(self.peers))

    def value(self, scores: Sequence[Score]) -> Value | None:
        """What a model with these test scores is worth."""
        return merge_value(scores, self.singles["base"], self.experts, self.seed)

    def owner_name(self, index: int) -> str:
        """Whose task the index-th one is: "protected", "peer 1", ..."""
        owner = self.tasks.owners[index]
        return f"peer {owner}" if owner else "protected"


def prepare(
    protected: str | Path,
    base: str | Path,
    original: str | Path,
    peers: Sequence[str | Path],
    tasks: TaskFile,
    cache: Path,
    seed: int,
    planned: PlannedSteps,
) -> AuditInputs:
    """Opens, compares and scores the models of an audit.

    Raises:
        InputError: models that do not fit together, named by tensor and shape; a task of a peer
            that is not there; too little memory.
        UnsupportedError: an architecture that nobody declared.
    """
    folders = _opened(protected, base, original, peers)
    tasks = _shuffled(tasks, seed)
    if max(tasks.owners) > len(peers):
        raise InputError(
            f"a task is of peer {max(tasks.owners)}, and there are {len(peers)} peers."
        )
    layout = Layout.of(folders["base"].config, folders["base"].shapes)
    layout.check_plain("audited")
    for folder in folders.values():
        check_fits(layout, folders["base"], folder)
    memory_plan.check(current(), sum(map(prod, folders["base"].shapes.values())))
    runner = ModelRunner.of(folders["base"].local)
    base_weights = Weights.read(folders["base"])
    evaluator = Evaluator(
        runner, folders["base"].local, tasks.tasks, tasks.owners, cache, base_weights.tensors
    )
    test: dict[str, Sequence[Score]] = {}
    chosen: dict[str, Sequence[Score]] = {}
    held: dict[str, Model] = {}
    digests: dict[str, str] = {}
    parameters = 0
    distances: dict[str, float] = {}
    distant: dict[str, str] = {}
    planned.measured = lambda: evaluator.measured
    planned.plan(2 * len(folders))
    for name, folder in folders.items():
        planned.start(f"scoring the {name}", 2)
        weights = base_weights
        if name != "base":
            weights = fitted(Weights.read(folder), base_weights.tensors)
        digests[name], parameters = weights.digest, weights.parameters
        for split, into in (("test", test), ("validation", chosen)):
            into[name] = _single(evaluator, weights, split)  # type: ignore[arg-type]
            planned.step()
        if name == "base" or name.startswith("peer"):
            held[name] = offloaded(weights, runner.device)
        if name == "original" or name.startswith("peer"):
            gap = distances[name] = weights.distance(base_weights) / base_weights.norm
            if not gap <= FAR:
                distant[name] = (
                    f"the {name} is {gap:.0%} of the base's norm away from it; fine-tuning leaves "
                    f"a few percent, so this may not be its base"
                )
        evaluator.forget()
    names = _names(len(peers))
    experts = [chosen[names[owner]][index] for index, owner in enumerate(tasks.owners)]
    reference = Reference(chosen["base"], experts)
    texts = {kind: _pool(runner, tasks, pool) for kind, pool in tasks.texts.items()}
    labelled = [_labelled(runner, tasks, n + 1) for n in range(len(peers))]
    own = next((texts[kind] for kind in ("in-domain", "near", "generic") if kind in texts), None)
    complete = own is not None and all(corpus.batches for corpus in labelled)
    candidates = Candidates(
        held["base"],
        [held[name] for name in names[1:]],
        layout,
        runner,
        [own, *labelled] if own is not None and complete else [],
        store.digest({"texts": tasks.texts, "train": [t.content_hash for t in tasks.tasks]}),
        seed,
    )
    thief = Thief(
        held["base"].state,
        [peer.state for peer in candidates.peers],
        layout,
        runner,
        texts,
        labelled,
        validation=[_validation(runner, tasks, owner) for owner in range(1 + len(peers))],
        judge=_judge(runner, tasks, reference),
        seed=seed,
    )
    return AuditInputs(
        protected=folders["protected"],
        base=folders["base"],
        original=folders["original"],
        peers=[folders[name] for name in names[1:]],
        tasks=tasks,
        layout=layout,
        evaluator=evaluator,
        candidates=candidates,
        thief=thief,
        singles=test,
        reference=reference,
        digests=digests,
        parameters=parameters,
        distances=distances,
        distant=distant,
        seed=seed,
    )


def _opened(
    protected: str | Path, base: str | Path, original: str | Path, peers: Sequence[str | Path]
) -> dict[str, ModelFolder]:
    """The folders of an audit by name, the peers' last.

    Raises:
        InputError: no peer, or a folder that no merge tool takes.
    """
    if not peers:
        raise InputError("an audit needs at least one peer: what the thief would merge with.")
    folders = {
        "protected": open_folder(resolve(protected)),
        "base": open_folder(resolve(base)),
        "original": open_folder(resolve(original)),
        **{f"peer {n + 1}": open_folder(resolve(peer)) for n, peer in enumerate(peers)},
    }
    if folders["base"].is_private:
        raise InputError(
            f"{folders['base'].path} is a private base, which a thief does not have, and so no "
            "anchor of his. Audit against the public base that it was made from."
        )
    for folder in folders.values():
        if is_rebuilt(folder):
            raise InputError(
                f"{folder.path} is of an architecture that a defence made up, so that every merge "
                "tool refuses it beside its base. A thief makes it a stock model first: run "
                "`unmergeable align`, and audit what comes out."
            )
    return folders


def _shuffled(tasks: TaskFile, seed: int) -> TaskFile:
    """The tasks with their validation items in random order: the first ones speak for all.

    What is shuffled stays as it is, such as an audit's tasks that its workers are given.
    """

    def mixed(task: Task) -> Task:
        order = sorted(task.validation, key=lambda item: store.digest({"of": seed, "item": item}))
        return replace(task, validation=tuple(order))

    return replace(tasks, tasks=tuple(map(mixed, tasks.tasks)))


def _names(peers: int) -> list[str]:
    return ["original", *(f"peer {number + 1}" for number in range(peers))]


def load(inputs: AuditInputs, folder: ModelFolder) -> Model:
    """A folder's weights in the base's shapes, known by their content."""
    weights = fitted(Weights.read(folder), inputs.candidates.base.state)
    return offloaded(weights, inputs.device)


def differing(base: ModelFolder, folder: ModelFolder) -> list[str]:
    """What makes a model compute something else than the same weights as the base's.

    All models of an audit run with the base's config and tokenizer, as their merges do.

    Returns:
        A clause each: which key of its config.json, or which rows of its tokenizer, differ.
    """
    settings = config_differences.differences(folder.config, base.config)
    decisive = [str(each) for each in settings if each.decides and each.key not in _SIZES]
    found = []
    if decisive:
        found.append(f"its config.json differs from the base's in {decisive[0]}")
    tokens = tokenizer_differences.differences(folder, base)
    found += [f"its tokenizer is not the base's: {each}" for each in tokens if each.decides][:1]
    return found


def offloaded(weights: Weights, device: torch.device) -> Model:
    """Weights that every merge reads and none runs, so that they need not be in memory.

    Args:
        weights: of the model.
        device: where merges are made.
    """
    return Model(OffloadedState(weights.tensors, device), weights.digest)


def defence_of(folder: ModelFolder) -> str | None:
    """The defences that a folder's manifest names, with plus signs between, if it has one."""
    if not (folder.path / MANIFEST).exists():
        return None
    return read_manifest(folder.path).title


def has_lock(folder: ModelFolder) -> bool:
    """Whether a folder's manifest names something that a key undoes."""
    return (folder.path / MANIFEST).exists() and bool(read_manifest(folder.path).reversible)


def _single(evaluator: Evaluator, weights: Weights, split: Split) -> list[Score]:
    about: dict[str, Any] = {"weights": weights.digest}
    return evaluator.scores(about, lambda: Merged(weights.tensors), split)


def _pool(runner: ModelRunner, tasks: TaskFile, texts: Sequence[str]) -> Corpus:
    """Unlabelled texts, to be asked about as the protected model's first task asks."""
    task = _bare(tasks.tasks[tasks.owners.index(0)])
    return Corpus(task, task.batches(runner, list(texts)[:MOST_ITEMS], None, in_order))


def _labelled(runner: ModelRunner, tasks: TaskFile, owner: int) -> Corpus:
    """The training items of a peer's first task that has any; none if there is no such task."""
    own = [t for t, whose in zip(tasks.tasks, tasks.owners, strict=True) if whose == owner]
    if not own:
        raise InputError(f"peer {owner} has no task: add one with 'of: peer {owner}'.")
    task = next((task for task in own if task.train), own[0])
    items = task.train[:MOST_ITEMS]
    texts, labels = [item.text for item in items], [item.label for item in items]
    return Corpus(_bare(task), task.batches(runner, texts, labels, in_order))


def _validation(runner: ModelRunner, tasks: TaskFile, owner: int) -> Corpus:
    """The validation items of an owner's first task that merges' coefficients are chosen on."""
    task = tasks.tasks[tasks.owners.index(owner)]
    items = task.validation[:ITEMS]
    texts, labels = [item.text for item in items], [item.label for item in items]
    groups = partial(in_order, tokens=256, most=8)
    return Corpus(_bare(task), task.batches(runner, texts, labels, groups))


def _judge(runner: ModelRunner, tasks: TaskFile, reference: Reference) -> Callable[[State], float]:
    """The worst task's share of its expert's gain, on those items of every task."""
    exams: list[Callable[[], Score]] = []

    def judge(state: State) -> float:
        if not exams:
            exams.extend(task.exam(runner, task.validation[:ITEMS]) for task in tasks.tasks)
        runner.load_state(state)
        with cast_once(runner):
            return reference.worst_share([exam() for exam in exams])

    return judge


def _bare(task: Task) -> Task:
    """How a task is asked and answered, without its items: what a thief may see of it."""
    return replace(task, train=(), validation=(), test=())
