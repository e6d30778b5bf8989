"""What of a report decides its verdict: nothing but the document itself is looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from unmergeable.attacks.attack import COORDINATE_FREE
from unmergeable.auditing.items import doubts
from unmergeable.auditing.verdict import Facts, Layer, Reached
from unmergeable.evaluation.value import Estimate

Document = Mapping[str, Any]
ALIGNED = "aligned model"  # what the distances call the model after alignment
ORIGINAL = "original"
# The curves of the displacement by layer: of the aligned model and of the open expert.
ALIGNED_CURVE, OPEN_CURVE = "aligned", "open"
_NAMED = 3  # merge methods of an attack that are named where many failed


def facts(document: Document) -> Facts:
    """The facts of a report.

    Args:
        document: the report, but for its verdict, claims and flags.
    """
    attacks = {attack["name"]: attack for attack in document["attacks"]}
    distances = document["distances"]
    return Facts(
        reached=tuple(
            Reached(
                attack=cell["attack"],
                title=attacks[cell["attack"]]["title"],
                stage=attacks[cell["attack"]]["stage"],
                method=cell["method"],
                value=Estimate(**cell["value"]),
                theft=Estimate(**cell["theft"]),
                price=cell["price"],
            )
            for cell in document["cells"]
            if cell["subject"] == "protected" and cell["theft"]
        ),
        ceilings=tuple(
            (point["price"]["seconds"], point["theft"]["value"])
            for ceiling in document["price_curve"]["ceilings"]
            for point in ceiling["points"]
            if point["theft"]
        ),
        failed=tuple(_failed(document, attacks)),
        left_out=tuple(
            (each["what"], each["need"]) for each in document["not_run"] if each["need"]
        ),
        controls={control["name"]: control["passed"] for control in document["controls"]},
        expert=distances["of"].get(ORIGINAL),
        aligned=distances["of"].get(ALIGNED),
        layers=_layers(document["displacement"]),
        suspicious=ALIGNED in distances["far"],
        distant=_distant(distances["far"]),
        free=frozenset(
            name
            for name in COORDINATE_FREE
            for cell in document["cells"]
            if cell["attack"].startswith(name)
            and attacks[cell["attack"]]["stage"] == "text"
            and _worked(cell)
        ),
        doubts=tuple((doubt.what, doubt.need) for doubt in doubts(document["tasks"]) if doubt.need),
        retained=_retained(document["tasks"]),
    )


def _distant(far: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What is said of models too far from the base, the aligned one apart, and what would do."""
    others = {name: what for name, what in far.items() if name != ALIGNED}
    return tuple((what, wanted(others)) for what in others.values())


def wanted(distant: Collection[str]) -> str:
    """What to give, where models that nobody protected are too far from the base.

    Args:
        distant: their names.
    """
    if ORIGINAL in distant:
        return "give the base that the expert and the peers were fine-tuned from"
    return "give peers that were fine-tuned from the base of the expert"


def _layers(displacement: Document | None) -> tuple[Layer, ...]:
    """How far the open expert and the aligned model are from the base; none unless both are."""
    if displacement is None:
        return ()
    curves = {curve["name"]: curve["values"] for curve in displacement["curves"]}
    if not {OPEN_CURVE, ALIGNED_CURVE} <= curves.keys():
        return ()
    found = zip(displacement["layers"], curves[OPEN_CURVE], curves[ALIGNED_CURVE], strict=True)
    return tuple(Layer(*each) for each in found)


def _retained(tasks: Sequence[Document]) -> float | None:
    """The worst share of the expert's gain that the release alone has, on the owner's tasks."""
    shares = []
    for task in tasks:
        if task["of"] == "protected":
            low, high, got = (
                task["scores"][who]["accuracy"] for who in ("base", "expert", "protected")
            )
            shares.append((got - low) / (high - low) if high > low else 0.0)
    return min(shares, default=None)


def _failed(document: Document, attacks: Mapping[str, Document]) -> Iterator[str]:
    """The attacks that failed, with the merge methods that they failed with.

    A merge method that fails on the open expert, too, is no matter of the release, unless it was
    what an attack beyond alignment was tried with; those that deploy more than one model count
    neither way.
    """
    routed = {method["name"] for method in document["methods"] if method["routed"]}
    opened = {c["method"] for c in document["cells"] if c["subject"] == "open" and not _worked(c)}
    found: dict[str, list[str]] = defaultdict(list)
    for cell in document["cells"]:
        name, method = cell["attack"], cell["method"]
        if cell["subject"] != "protected" or method in routed or _worked(cell):
            continue
        plain = attacks[name]["stage"] in ("none", "align")
        if cell["status"] == "skipped" or (plain and method in opened):
            continue
        if method not in found[name]:
            found[name].append(method)
    for name, methods in found.items():
        more = len(methods) - _NAMED
        named = ", ".join(methods[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield f"{attacks[name]['title']}, with {named},"


def _worked(cell: Document) -> bool:
    """Whether a cell says something: a model whose answers are not finite failed, too."""
    return bool(cell["status"] == "measured" and cell["value"] and cell["finite"])
