"""Verify: whether a protected model computes what the original computes.

Algebra is not trusted. Both models are loaded with stock transformers, in float32, and run on the
same text or images; their outputs are compared. With the key, the weights are compared as well, and
in any case the files that decide what a model does: config, tokenizer, templates, code.

The protected folder is not trusted either. What its outputs may be off by follows from the original
alone, and its manifest can make that less and not more.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from unmergeable.architectures.model_class import embedder_of
from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.checkpoint.file_comparison import FileComparison, with_folder, with_manifest
from unmergeable.checkpoint.folder import CONFIG, MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.local_copy import check_room_for_copy, is_away, local_copy
from unmergeable.checkpoint.manifest import Manifest, read_manifest
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.small_files import is_there
from unmergeable.defences.mergebarrier import custom_code
from unmergeable.defences.mergebarrier.mergebarrier import FILE as CODE
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.machine import available_memory
from unmergeable.models.device import AUTO, device_named, free_memory
from unmergeable.models.load import load_model
from unmergeable.models.offload import Offload, is_short
from unmergeable.progress import Counter, Progress, silent
from unmergeable.verification.forward import Outputs, run
from unmergeable.verification.inputs import Inputs, inputs_for
from unmergeable.verification.output_comparison import (
    EXACT_TOLERANCE,
    OutputComparison,
    compare_outputs,
    rounding_tolerance,
)
from unmergeable.verification.weight_comparison import WeightComparison, compare_weights


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        outputs: the main outputs of the two models.
        weights: compared under the key; None without one.
        offloaded: whether layers that did not fit in memory were read from the disk in turn.
        further: the models' other outputs, such as a pooler's, or the embeddings of a folder of
            sentence-transformers.
        files: the protected folder's files beside the weights, against the original's.
        recorded: the same files against what the manifest says of them; None without a manifest.
        unchecked: files of the protected folder that may hold weights, and were not looked at.

    Examples:
        >>> unmergeable.verify("expert", "locked").weights is None
        True
    """

    outputs: OutputComparison
    weights: WeightComparison | None
    offloaded: bool
    further: tuple[OutputComparison, ...]
    files: FileComparison
    recorded: FileComparison | None
    unchecked: tuple[str, ...]

    @property
    def same(self) -> bool:
        """The verdict."""
        parts = (self.outputs, *self.further, self.files, self.weights, self.recorded)
        return all(part is None or part.same for part in parts)


def verify(
    original: str | Place,
    protected: str | Place,
    *,
    key: Key | str | Path | None = None,
    text: str | Path | Sequence[str] | None = None,
    tolerance: float | None = None,
    offload: str | Path | None = None,
    memory: int | None = None,
    seed: int | None = None,
    device: str = AUTO,
    progress: Progress = silent,
) -> VerifyReport:
    """Compares a protected model with its original.

    Weights and files at an address are compared as they come from there, and are not kept. To be
    run, a model is downloaded into the system's temporary folder, one of the two at a time.

    Args:
        original: a model folder, a Hub id or an address.
        protected: its protected version.
        key: compares the weights too.
        text: prompts, or a file with one per line; default: built in, and random tokens. Image
            models get images.
        tolerance: allowed output difference, root mean square, relative to the outputs; default:
            1e-4 for a lossless lock and float32, more for a lock that rounded a narrower dtype of
            the original, at most 0.0625. Bounds of the divergence and of the top choice follow from
            it; see `output_comparison`.
        offload: a folder on a disk with room, from which layers are run that do not fit in memory;
            default: the system's temporary folder, if memory is short.
        memory: bytes of memory that weights may take; default: what is free. Offloads.
        seed: of random inputs; default: other ones each time, so that no model can be made for
            them.
        device: where models are run: "auto" (the first accelerator where a model fits, else the
            CPU), "cpu", "cuda", "cuda:N" or "mps". With `offload` accelerate chooses.
        progress: is told how far it is.

    Raises:
        UnmergeableError: a folder or key that cannot be used; models of different shapes; models of
            which nothing can be said, as their outputs are not finite or do not depend on the
            input; a disk without room for a download.

    Examples:
        >>> unmergeable.verify("expert", "locked", key="owner.key").same
        True
    """
    where = device_named(device)
    folders = [open_folder(locate(model)) for model in (original, protected)]
    first, second = folders
    if device == AUTO and is_short(first.shapes, free_memory(where)):
        where = device_named("cpu")
    manifest = read_manifest(second.path) if is_there(second.path / MANIFEST) else None
    rebuilt = is_rebuilt(second)
    if first.shapes != second.shapes and not (rebuilt and manifest is not None):
        names = first.shapes.items() ^ second.shapes.items()
        raise InputError(
            f"{first.path} and {second.path} are not the same model: they differ in the shape or "
            f"presence of {min(name for name, _ in names)!r}."
        )
    for folder in folders:
        check_room_for_copy(folder)
    total = first.tensor_bytes + second.tensor_bytes * (1 if key is None else 2)
    total += sum(folder.size for folder in folders if is_away(folder))
    advance = Counter(progress, "verifying", total)
    files, recorded = _compare_files(first, second, manifest, rebuilt)
    weights = None
    if key is not None:
        if rebuilt:
            raise InputError(
                f"the weights of {second.path} cannot be compared under a key: "
                f"{second.config['architectures'][0]} is another architecture than the original's, "
                "and no key undoes that. Leave the key out to compare outputs."
            )
        weights = compare_weights(first, second, key, advance)
    if tolerance is None:
        lossless = manifest is not None and manifest.lossless
        tolerance = EXACT_TOLERANCE if lossless else rounding_tolerance(first)
    prompts = _prompts(text)
    seed = secrets.randbits(32) if seed is None else seed
    offloads = offload is not None or memory is not None or is_short(first.shapes)
    embeddings = bool(embedder_of(first))  # their users read hidden states, whatever the class
    inputs: Inputs | None = None
    found: list[tuple[Outputs, ...]] = []
    for folder in folders:
        with ExitStack() as stack:
            how = None
            if offloads:
                scratch = stack.enter_context(_scratch(offload))
                how = Offload(Path(scratch), memory)
            place = stack.enter_context(local_copy(folder, advance))
            model = load_model(place, folder.config, how)
            model = model if offloads else model.to(where)
            if inputs is None:
                inputs = inputs_for(model, place, first.config, prompts, seed)
            found.append(run(model, inputs, embeddings=embeddings))
            del model
        advance(folder.tensor_bytes)
    assert inputs is not None
    compared = _compare(found[0], found[1], inputs.about, tolerance, folders, weights)
    if any(one.hangs_on_rounding for one in compared):
        exact = _in_float64(first, inputs, embeddings)
        if exact is not None:
            compared = tuple(
                replace(one, rounding=compare_outputs(rough, fine, one.inputs, tolerance).relative)
                for one, rough, fine in zip(compared, found[0], exact, strict=True)
            )
    return VerifyReport(
        compared[0], weights, offloads, compared[1:], files, recorded, second.left_out
    )


def _in_float64(
    folder: ModelFolder, inputs: Inputs, embeddings: bool
) -> tuple[Outputs, ...] | None:
    """A model's outputs in float64, on the CPU; None where it cannot be run so."""
    if is_short(folder.shapes, available_memory() // 2):  # twice as wide as float32
        return None
    try:
        with local_copy(folder, lambda _: None) as place:
            model = load_model(place, folder.config).double()
            return run(model, inputs, embeddings=embeddings)
    except InputError:
        return None


def _compare(
    before: tuple[Outputs, ...],
    after: tuple[Outputs, ...],
    inputs: str,
    tolerance: float,
    folders: Sequence[ModelFolder],
    weights: WeightComparison | None,
) -> tuple[OutputComparison, ...]:
    """Compares each output of the one model with that of the other.

    Raises:
        InputError: outputs that say nothing, where the weights do not show a difference.
    """
    first, second = folders
    shapes = [
        {outputs.what: [row.shape for row in outputs.rows] for outputs in part}
        for part in (before, after)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{first.path} gives {', '.join(shapes[0])}, and {second.path} gives "
            f"{', '.join(shapes[1])}, of another shape or name: they cannot be compared. Is "
            "its config.json that of the original?"
        )
    compared = tuple(
        compare_outputs(one, two, inputs, tolerance) for one, two in zip(before, after, strict=True)
    )
    if weights is not None and weights.exceeded:
        return compared
    known = ""
    if weights is not None:
        known = f" Under the key, {weights.identical} of {weights.tensors} tensors are identical."
    if any(one.not_finite == ("original", "protected") for one in compared):
        raise InputError(
            f"the outputs of {first.path} and of {second.path} are not finite (NaN or infinite) "
            f"and cannot be compared. Repair the original.{known}"
        )
    if weights is not None and weights.not_finite:
        raise InputError(
            f"{weights.not_finite[0]} of {first.path} is not finite (holds NaN or infinity) and "
            f"cannot be compared under the key. Repair the original.{known}"
        )
    if weights is None and all(one.constant and one.same for one in compared):
        raise InputError(
            f"the outputs of {first.path} do not depend on the input, so they say nothing of what "
            f"{second.path} computes. Is it trained? The key would tell: --key."
        )
    return compared


def _compare_files(
    first: ModelFolder, second: ModelFolder, manifest: Manifest | None, rebuilt: bool
) -> tuple[FileComparison, FileComparison | None]:
    """The protected folder's files against the original's, and against the manifest's digests."""
    rewritten: set[str] = set()
    if rebuilt:
        rewritten.add(CONFIG)
        own = resources.files(custom_code).joinpath(CODE).read_bytes()
        if CODE in second.companions and second.read_companion(CODE) == own:
            rewritten.add(CODE)
    files = with_folder(first, second, rewritten)
    if manifest is None or not manifest.checkable:
        return files, None
    return files, with_manifest(second, manifest)


def _scratch(folder: str | Path | None) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when it is no longer needed.

    Raises:
        InputError: a place that cannot be written.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="unmergeable-", dir=folder)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}.") from None


def _prompts(text: str | Path | Sequence[str] | None) -> Sequence[str] | None:
    if text is None or not isinstance(text, str | Path):
        return text
    try:
        lines = [line for line in Path(text).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the prompts in {text}: {error}.") from None
    if not lines:
        raise InputError(f"{text} has no line of text.")
    return lines
