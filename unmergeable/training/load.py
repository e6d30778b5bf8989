"""The base as it goes into training: its model, what of it is trained, and how it reads items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unmergeable.architectures.declaration import GUIDE
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.defences.model_in_training import attention_matrices
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.evaluation.heads import Head
from unmergeable.extras import optional
from unmergeable.models.device import placed
from unmergeable.models.load import load_as
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.collators import Classes, Language, Reading
from unmergeable.training.config import TrainConfig
from unmergeable.training.data import Items

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter; the defaults are those of Trap²'s vision runs.

    Attributes:
        rank: r.
        alpha: the adapter is scaled by alpha / r.
        dropout: of its input, in training.
        targets: Q, K, V and O of every layer, or every linear layer but the output's.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.1
    targets: Literal["attention", "all"] = "attention"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A base, ready for training.

    Attributes:
        module: what is trained; a PEFT model for an adapter.
        names: the module's parameters and buffers that the base's folder holds, to their names
            there.
        reading: how items become batches and answers a loss.
        added: names of parameters that the base lacks: a new classifier's.
    """

    module: Any
    names: Mapping[str, str]
    reading: Reading
    added: tuple[str, ...]


def load(base: ModelFolder, items: Items, head: Head | None, config: TrainConfig) -> Loaded:
    """Loads a base for the items it is to learn, in float32.

    Texts, and prompts with completions, need a causal language model. Labelled items need a frozen
    head on the pooled hidden states, or a classifier: the base's own, or else a new one.

    Args:
        base: the base's folder.
        items: what is to be learned.
        head: a frozen head for labelled items; it stays outside of the model.
        config: for the length of texts, the size of images and the seed of a new classifier.

    Raises:
        InputError: items that the base cannot learn.
    """
    if head is not None and not items.labels:
        raise InputError(f"--head answers with classes, and the items are of kind {items.kind!r}.")
    named = (base.config.get("architectures") or [""])[0]
    if items.labels and head is None and "Classification" not in named:
        runner = _with_classifier(base, items, config.seed)
    else:
        runner = ModelRunner.of(base.local)
    module: Any = runner.model
    if head is not None:
        module = module.base_model
    names = _names(base, module)
    if items.labels:
        classes = int(module.config.num_labels) if head is None else head.classes
        reading: Reading = Classes(runner, classes, head, config.tokens, config.size)
    else:
        if runner.tokenizer is None:
            raise InputError(f"{base.path} has no tokenizer, and the items are texts.")
        if module.get_output_embeddings() is None or "ForMaskedLM" in named:
            raise InputError(
                f"{base.path} is no causal language model ({named or 'no class named'}), and the "
                f"items are of kind {items.kind!r}. Give it labelled items."
            )
        reading = Language(runner.tokenizer, module, config.tokens, config.end)
    module.requires_grad_(True)
    added = tuple(name for name, _ in module.named_parameters() if name not in names)
    return Loaded(module, names, reading, added)


def adapt(loaded: Loaded, base: ModelFolder, lora: Lora) -> Any:
    """Puts a fresh adapter into the module; only it is trained, and a classifier the base lacks."""
    peft = optional("peft")
    module = loaded.module
    last = {name.rpartition(".")[0] for name in loaded.added}
    conv = any(type(part).__name__ == "Conv1D" for part in module.modules())
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(loaded, base) if lora.targets == "attention" else "all-linear",
        modules_to_save=sorted(last) or None,
        fan_in_fan_out=conv,
        task_type="CAUSAL_LM" if isinstance(loaded.reading, Language) else None,
    )
    return peft.get_peft_model(module, config)


def freeze_unseen(module: torch.nn.Module, reading: Reading, example: Any) -> list[str]:
    """Freezes the parameters that the answers do not depend on, such as a pooler behind no head.

    They would stay as they are in any case, but processes that average gradients wait for them.

    Returns:
        Their names.
    """
    batch = placed(module, reading.collate([example]))
    module.eval()
    reading.loss(module, batch).backward()  # type: ignore[no-untyped-call]
    unseen = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.requires_grad_(False)
            unseen.append(name)
        parameter.grad = None
    return unseen


def _with_classifier(base: ModelFolder, items: Items, seed: int) -> ModelRunner:
    """The base under a new classifier, drawn from the seed."""
    transformers = optional("transformers")
    plain = ModelRunner.of(base.local)
    image = items.kind == "image"
    auto = (
        transformers.AutoModelForImageClassification
        if image
        else transformers.AutoModelForSequenceClassification
    )
    options: dict[str, Any] = {"num_labels": max(2, items.labels)}
    if items.classes:
        options["id2label"] = dict(enumerate(items.classes))
        options["label2id"] = {name: n for n, name in enumerate(items.classes)}
    if not image and base.config.get("pad_token_id") is None:
        options["pad_token_id"] = getattr(plain.tokenizer, "eos_token_id", None) or 0
    try:
        model = load_as(auto, base.local, base.config, seed=seed, **options)
    except InputError as error:
        raise InputError(f"transformers has no classifier for {base.path}: {error}") from None
    return ModelRunner(model.to(plain.device), plain.tokenizer, plain.image_processor)


def _names(base: ModelFolder, module: Any) -> dict[str, str]:
    """The module's tensors that the folder holds, to their names there.

    Folders differ in whether names begin with the trunk's prefix, and transformers renames some
    tensors as it loads them: the architecture's declaration knows both spellings.

    Raises:
        UnsupportedError: a tensor that transformers renamed, and nobody has declared.
    """
    own = set(module.state_dict())
    prefix = f"{module.base_model_prefix}." if getattr(module, "base_model_prefix", "") else ""
    try:
        layout = Layout.of(base.config, base.shapes)
    except UnsupportedError:
        layout = None
    found: dict[str, str] = {}
    for key in own:
        spellings = (key, prefix + key, key.removeprefix(prefix))
        stored = next((name for name in spellings if name in base.tensors), None)
        if stored is None and layout is not None:
            stored = layout.stored_name(key)
        if stored is not None:
            found[key] = stored
    # A trunk's tensors come from the folder; a new classifier's stand beside it.
    trunk = [
        name
        for name, _ in module.named_parameters()
        if module.base_model is module or name.startswith(prefix)
    ]
    if lost := [name for name in trunk if name not in found]:
        raise UnsupportedError(
            f"transformers calls a tensor {lost[0]!r}, and {base.path} has none of that name. If "
            "it is one of the folder's under another name, declare both spellings: see "
            f"{GUIDE}."
        )
    return found


def _targets(loaded: Loaded, base: ModelFolder) -> list[str]:
    """Where Q, K, V and O stand in every layer, without the layers' numbers."""
    try:
        matrices = attention_matrices(Layout.of(base.config, base.shapes))
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{error} Without it nobody knows which matrices are attention's: give "
            "--lora-targets all."
        ) from None
    own = {name: key for key, name in loaded.names.items()}
    ends = set()
    for part in matrices:
        pieces = own[part.name].removesuffix(".weight").split(".")
        after = max((n for n, piece in enumerate(pieces) if piece.isdigit()), default=-1)
        ends.add(".".join(pieces[after + 1 :]))
    return sorted(ends)
