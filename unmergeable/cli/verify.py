"""`unmergeable verify`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import click

from unmergeable.cli.options import key_option, load
from unmergeable.cli.output import emit, json_option, progress_bar

DIFFERENT = 1


@click.command("verify", short_help="Does the locked model compute the same?")
@click.argument("original", metavar="ORIGINAL")
@click.argument("protected", metavar="PROTECTED")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="A file with one prompt per line. Default: built-in prompts.",
)
@key_option(required=False, text="Compare the weights too, under this key.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Allowed root mean square difference, relative to the outputs. Default: 1e-4; more for "
    "a general lock of a 16-bit model, which rounds.",
)
@click.option(
    "--offload",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Run layer by layer from the disk what does not fit in memory; FOLDER is for what has to "
    "be stored for that. Done by itself, in the temporary folder, where memory is short.",
)
@json_option
def command(
    original: str,
    protected: str,
    text: Path | None,
    key_path: Path | None,
    tolerance: float | None,
    offload: Path | None,
    as_json: bool,
) -> int:
    """Run ORIGINAL and PROTECTED on the same inputs and compare what comes out.

    Both are loaded with stock transformers, in float32. Text models get prompts, image models get
    images. Exit code 1 means that they differ.
    """
    from unmergeable.audit.equivalence import verify
    from unmergeable.checkpoint.folder import open_folder
    from unmergeable.checkpoint.hub import resolve

    key = load(key_path) if key_path else None
    folders = resolve(original), resolve(protected)
    total = sum(open_folder(folder).size for folder in folders)
    if key is not None:
        total += open_folder(folders[1]).size
    with progress_bar("verifying", total) as advance:
        report = verify(
            *folders, key=key, text=text, tolerance=tolerance, offload=offload, progress=advance
        )
    outputs, weights = report.outputs, report.weights
    lines = [
        f"{outputs.what} on {outputs.inputs}: root mean square difference "
        f"{outputs.rms_difference:.2g} of the outputs' (allowed {outputs.tolerance:.2g}), largest "
        f"{outputs.max_difference:.3g}, {outputs.relative:.2g} of the largest output"
    ]
    if outputs.mean_kl is not None and outputs.top1_agreement is not None:
        lines.append(
            f"mean KL divergence {outputs.mean_kl:.2g} nats, "
            f"same top choice {outputs.top1_agreement:.2%}"
        )
    if weights is not None:
        lines.append(
            f"weights under the key: {weights.identical} of {weights.tensors} tensors identical"
            + (f", largest difference {weights.max_difference:.2g}" if weights.worst else "")
            + (f" in {weights.worst}" if weights.worst else "")
            + (f"; {len(weights.exceeded)} too far from the original's" if weights.exceeded else "")
        )
    if report.offloaded:
        lines.append("Layers that did not fit in memory were read from the disk in their turn.")
    lines.append("The two models compute the same." if report.same else "The models DIFFER.")
    document = {
        "same": report.same,
        "offloaded": report.offloaded,
        "outputs": {**asdict(outputs), "relative": outputs.relative, "same": outputs.same},
        "weights": None if weights is None else {**asdict(weights), "same": weights.same},
    }
    emit(as_json, _finite(document), *lines)
    return 0 if report.same else DIFFERENT


def _finite(document: dict[str, object]) -> dict[str, object]:
    """JSON has neither NaN nor infinity: such a figure is written as null."""
    return {
        name: _finite(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in document.items()
    }
