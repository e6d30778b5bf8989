"""`unmergeable verify`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmergeable.cli.options import device_option, key_option, load
from unmergeable.cli.output import emit, json_option, notice, progress_bar

if TYPE_CHECKING:
    from unmergeable.verification.output_comparison import OutputComparison

DIFFERENT = 1


@click.command("verify", short_help="Does the locked model compute the same?")
@click.argument("original", metavar="[ORIGINAL", required=False)
@click.argument("protected", metavar="PROTECTED]", required=False)
@click.option(
    "--files",
    metavar="FOLDER",
    help="In place of ORIGINAL and PROTECTED: compare all files of FOLDER with the BLAKE3 digests "
    "in its manifest. Needs no key and runs no model.",
)
@click.option(
    "--signature",
    metavar="FOLDER",
    help="In place of ORIGINAL and PROTECTED: check that the files of FOLDER are those that were "
    "signed into its model.sig (see `unmergeable sign`), with --public-key.",
)
@click.option(
    "--public-key",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="The signer's, from a source that you trust.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="A file with one prompt per line. Default: built-in prompts.",
)
@key_option(
    required=False,
    text="Compare the weights too, under this key; with --files, check the manifest's seal.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Allowed root mean square difference, relative to the outputs. Default: 1e-4; for a lock "
    "that rounds, 16 units of rounding of ORIGINAL's dtypes, at most 0.0625. The bounds of KL "
    "divergence and top choice follow from it.",
)
@click.option(
    "--offload",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Run layer by layer from the disk what does not fit in memory; FOLDER is for what has to "
    "be stored for that. Done by itself, in the temporary folder, where memory is short.",
)
@device_option("Where the models are run.")
@json_option
def command(
    original: str | None,
    protected: str | None,
    files: str | None,
    signature: str | None,
    public_key: Path | None,
    text: Path | None,
    key_path: Path | None,
    tolerance: float | None,
    offload: Path | None,
    device: str,
    as_json: bool,
) -> int:
    """Run ORIGINAL and PROTECTED on the same inputs and compare what comes out.

    Both are loaded with stock transformers, in float32, and no code of theirs is run. Text models
    get prompts and random tokens, image models get images. A folder of sentence-transformers is
    asked for its embeddings, too. A model at an address, such as s3://bucket/model, is downloaded
    into the temporary folder for as long as it runs. The two are the same if

    \b
      - the outputs differ by no more than --tolerance; logits without their mean, too,
        and other outputs without theirs by no more than 32 times that, at most 0.25
      - mean KL divergence is at most 4 (t s)^2 and 0.1 nats, with t the tolerance and s
        the root mean square of the logits without their mean
      - the top choice is the same at 99 % of the positions, but for ties (within 4 t s)
      - config, tokenizer, templates and code are the original's byte for byte, and what
        PROTECTED's manifest says of them; cards and licences may be edited
      - with --key, every weight comes back

    Exit code 1 means that they differ. Where nothing can be said, as the outputs are not finite
    (NaN or infinite) or do not depend on the input, it is 2.

    With --files it is 1 where a file is not what the manifest says or is missing, or where there
    are weights, code, configs or tokenizers that it does not list; 2 where there is no manifest to
    check with. Edited cards and licences are named and decide nothing. That finds damage and
    mixed-up files, but does not show who made them: a changed file's digest can be rewritten, too.
    The manifest's seal shows that to the owner of the key: add --key, or unlock. To others a
    signature shows it.

    With --signature it is 1 where a file was changed, removed or added since it was signed, cards
    and licences too, or where another key signed; 2 where there is no signature.
    """
    if signature is not None:
        alone = (original, files, text, key_path, tolerance, offload)
        if public_key is None or any(x is not None for x in alone):
            raise click.UsageError("--signature FOLDER goes with --public-key and --json alone.")
        return _verify_signature(signature, public_key, as_json)
    if public_key is not None:
        raise click.UsageError("--public-key goes with --signature FOLDER.")
    if files is not None:
        if original is not None or any(x is not None for x in (text, tolerance, offload)):
            raise click.UsageError("--files FOLDER goes with --key and --json alone.")
        return _verify_files(files, key_path, as_json)
    if original is None or protected is None:
        name = "ORIGINAL" if original is None else "PROTECTED"
        raise click.UsageError(f"Missing argument '{name}'.")
    from unmergeable.checkpoint.file_comparison import listed
    from unmergeable.checkpoint.hub import locate
    from unmergeable.checkpoint.remote import RemotePath
    from unmergeable.verification.verify import verify

    key = load(key_path) if key_path else None
    folders = locate(original), locate(protected)
    for place in folders:
        if isinstance(place, RemotePath):
            notice(f"{place} will be downloaded into the temporary folder for a while, to be run.")
    with progress_bar() as progress:
        report = verify(
            *folders,
            key=key,
            text=text,
            tolerance=tolerance,
            offload=offload,
            device=device,
            progress=progress,
        )
    weights = report.weights
    lines = [line for one in (report.outputs, *report.further) for line in _about(one)]
    if weights is not None:
        lines.append(
            f"weights under the key: {weights.identical} of {weights.tensors} tensors identical"
            + (f", largest difference {weights.max_difference:.2g}" if weights.worst else "")
            + (f" in {weights.worst}" if weights.worst else "")
            + (f"; {len(weights.exceeded)} too far from the original's" if weights.exceeded else "")
        )
    lines += report.files.sentences(protected, f"those of {original}")
    if report.recorded is not None:
        lines += report.recorded.sentences(protected, "what its manifest says")
    if report.unchecked:
        lines.append(f"not checked, as they may hold weights: {listed(report.unchecked)}")
    if report.offloaded:
        lines.append("Layers that did not fit in memory were read from the disk in their turn.")
    lines.append("The two models compute the same." if report.same else "The models DIFFER.")
    document = {
        "same": report.same,
        "offloaded": report.offloaded,
        "outputs": _outputs(report.outputs),
        "further": [_outputs(one) for one in report.further],
        "weights": None if weights is None else {**asdict(weights), "same": weights.same},
        "files": {**asdict(report.files), "same": report.files.same},
        "manifest": None
        if report.recorded is None
        else {**asdict(report.recorded), "same": report.recorded.same},
        "unchecked": list(report.unchecked),
    }
    emit(as_json, _finite(document), *lines)
    return 0 if report.same else DIFFERENT


def _verify_files(folder: str, key_path: Path | None, as_json: bool) -> int:
    """Compares a folder's files with its manifest."""
    from unmergeable.checkpoint.file_comparison import listed
    from unmergeable.checkpoint.hub import locate
    from unmergeable.verification.files import verify_files

    key = load(key_path) if key_path else None
    place = locate(folder)
    with progress_bar() as progress:
        report = verify_files(place, key=key, progress=progress)
    lines = report.files.sentences(folder, "its manifest says")
    if report.unlisted:
        lines.append(
            "not listed in the manifest, and nothing that a model is loaded from: "
            + listed(report.unlisted)
        )
    if report.files.same:
        lines.append(
            f"The files of {folder} are those that its manifest lists ({report.files.compared})."
        )
    else:
        lines.append(f"The files of {folder} are NOT those that its manifest lists.")
    if report.sealed is None:
        lines.append(
            "This does not show who wrote them: anyone who changes a file can rewrite its digest. "
            f"The seal shows it, with the owner's key (its id: {report.key}): add --key."
        )
    elif report.sealed:
        lines.append(f"The manifest is as it was sealed with the key {report.key}.")
    else:
        lines.append("The manifest was CHANGED since it was sealed: the seal does not fit the key.")
    document = {
        "same": report.same,
        "files": {**asdict(report.files), "same": report.files.same},
        "unlisted": list(report.unlisted),
        "key": report.key,
        "sealed": report.sealed,
    }
    emit(as_json, document, *lines)
    return 0 if report.same else DIFFERENT


def _verify_signature(folder: str, public_key: Path, as_json: bool) -> int:
    """Checks a folder's signature."""
    from unmergeable.protection.signing import verify_signature

    report = verify_signature(folder, public_key)
    lines = report.files.sentences(folder, "its signature says")
    if report.valid:
        lines.append(f"The files of {folder} are those that were signed with the key {public_key}.")
    else:
        lines.append(f"{folder} is NOT what was signed with the key {public_key}: {report.reason}.")
    document = {
        "same": report.valid,
        "key": report.key,
        "reason": report.reason,
        "files": asdict(report.files),
    }
    emit(as_json, document, *lines)
    return 0 if report.valid else DIFFERENT


def _about(outputs: OutputComparison) -> list[str]:
    """What people are told of an output."""
    if outputs.not_finite:
        models = " and ".join(outputs.not_finite)
        return [f"{outputs.what} on {outputs.inputs}: not finite (NaN or infinite) in the {models}"]
    lines = [
        f"{outputs.what} on {outputs.inputs}: root mean square difference "
        f"{outputs.rms_difference:.2g} of the outputs' (allowed {outputs.tolerance:.2g}), largest "
        f"{outputs.max_difference:.3g}, {outputs.relative:.2g} of the largest output; without the "
        f"mean {outputs.varying_difference:.2g} (allowed {outputs.varying_allowed:.2g})"
    ]
    if outputs.mean_kl is not None and outputs.top1_agreement is not None:
        lines.append(
            f"mean KL divergence {outputs.mean_kl:.2g} nats (allowed {outputs.kl_allowed:.2g}), "
            f"same top choice {outputs.top1_agreement:.2%}, {outputs.top1_tied:.2%} with ties"
        )
    if outputs.rounding is not None:
        lines.append(
            f"a few outputs are further off than the rest; rounding in float32 alone changes the "
            f"original's by up to {outputs.rounding:.2g} of the largest, so that it is "
            + ("taken for that" if outputs.same else "not taken for that")
        )
    return lines


def _outputs(outputs: OutputComparison) -> dict[str, object]:
    return {**asdict(outputs), "relative": outputs.relative, "same": outputs.same}


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: such a figure is written as null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
