"""Positive controls: what must work before a failed merge says anything about a protection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmergeable.attacks.align import align_tensors
from unmergeable.auditing.audit_inputs import AuditInputs
from unmergeable.auditing.facts import ORIGINAL, wanted
from unmergeable.auditing.fitting import fitted
from unmergeable.auditing.unlocked import unlocked
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.scratch import scratch
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.models.process import give_back
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import protect

# The share of its gain that a released model must have kept, and that the best merge of the open
# expert must reach, for the audit to mean anything.
KEPT = 0.5
MERGEABLE = 0.3
# What one model alone may be worth as a merge. A peer who can do the owner's task already has
# nothing to steal, and lifts every merge: on two related tasks, a locked model's had V = 0.7.
ALONE = 0.3
# Of the task vector's norm: what alignment may leave of an exact lock. On a pretrained model it
# leaves a few percent; where fine-tuning was rough on a small model, more.
ALIGNED = 0.25


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: as programs know it.
        title: what must hold.
        passed: whether it does.
        figure: the measured figure, in words.
        remedy: what to do where it does not.
    """

    name: str
    title: str
    passed: bool
    figure: str
    remedy: str = ""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("name", "title", "passed", "figure")}


class ControlError(InputError):
    """A positive control failed, so that nothing can be said about the protection."""

    def __init__(self, control: Control, hints: Iterable[str] = ()) -> None:
        further = "".join(f" And {hint}." for hint in hints)
        super().__init__(
            f"the audit stops, for a positive control failed: {control.title}. Measured: "
            f"{control.figure}. {control.remedy}{further}"
        )


def demand(control: Control, inputs: AuditInputs) -> Control:
    """Gives a control back if it passed.

    Raises:
        ControlError: it did not; where models are too far from the base, that is the reason.
    """
    if not control.passed:
        if inputs.distant:
            control = replace(control, remedy=distance_remedy(inputs))
        raise ControlError(
            control, [f"{inputs.protected.path}: {what}" for what in inputs.differing]
        )
    return control


def distance_remedy(inputs: AuditInputs) -> str:
    """What decides whether the base, or a peer, is the wrong one, and what to give instead.

    A release that resists leaves the original near the base and is far from it itself, aligned.
    """
    told = [f"{what[0].upper()}{what[1:]}." for what in inputs.distant.values()]
    need = wanted(inputs.distant)
    if ORIGINAL in inputs.distant:
        told.append(
            "Nobody protected the original, so that this is no release that resists: of one that "
            "does, the aligned release alone is far from the base."
        )
    else:
        told.append(f"The original is {inputs.distances[ORIGINAL]:.0%} away, so the base is its.")
    return " ".join([*told, f"{need[0].upper()}{need[1:]}."])


def experts_learned(inputs: AuditInputs) -> Control:
    """Each expert is better than the base on its task, or V is undefined."""
    figures, better = [], True
    for index, (task, expert) in enumerate(zip(inputs.tasks.tasks, inputs.experts, strict=True)):
        base, chosen = inputs.singles["base"][index], inputs.reference
        figures.append(f"{task.title}: base {base.accuracy:.1%}, expert {expert.accuracy:.1%}")
        low, high = chosen.base[index], chosen.experts[index]
        if not sum(high.marks) > sum(low.marks):
            figures[-1] += (
                f" (on validation items: base {low.accuracy:.1%}, expert {high.accuracy:.1%})"
            )
            better = False
        better &= expert.accuracy > base.accuracy
    return Control(
        "experts learned",
        "every expert is better than the base on its own task",
        better,
        ", ".join(figures),
        "V, the share of this gain that a merge keeps, is undefined without one. Check the task's "
        "prompt and labels, or give more items.",
    )


def release_works(inputs: AuditInputs) -> Control:
    """The protected model alone does the original's task."""
    shares, figures = [], []
    for index, owner in enumerate(inputs.tasks.owners):
        if owner == 0:
            low, high, got = (
                inputs.singles[name][index].accuracy for name in ("base", "original", "protected")
            )
            shares.append((got - low) / (high - low) if high > low else 0.0)
            title = inputs.tasks.tasks[index].title
            figures.append(f"{title}: original {high:.1%}, protected {got:.1%}")
    return Control(
        "release works",
        "the protected model alone does the expert's task",
        min(shares) >= KEPT,
        ", ".join(figures),
        "It lost more than half of what the expert had learned: a model that does not work is "
        "trivially safe from merging. Is it a protected form of this original?",
    )


def tasks_differ(inputs: AuditInputs) -> Control:
    """No expert alone does the other experts' tasks, or merges would be worth what it is worth."""
    worth = {}
    for name in inputs.names:
        value = inputs.value(inputs.singles[name])
        worth[name] = value.value if value else 0.0
    best = max(worth, key=lambda name: worth[name])
    return Control(
        "tasks differ",
        "no expert alone is worth what a merge should be",
        worth[best] < ALONE,
        ", ".join(f"{name} alone: V = {value:.2f}" for name, value in worth.items()),
        f"The {best} alone does every task, so that V says nothing about merging. Choose tasks "
        "that are further apart.",
    )


def open_merges(value: float, method: str) -> Control:
    """The unprotected expert merges well with the same tool."""
    return Control(
        "open expert merges",
        "the unprotected expert merges well with the same tools and peers",
        value >= MERGEABLE,
        f"best V = {value:.2f}, by {method}",
        "Nothing can be stolen from a merge that is worthless anyway: use another peer, or check "
        "that the peers were fine-tuned from the same base.",
    )


def tool_aligns(inputs: AuditInputs) -> Control:
    """Our own attack undoes an exact lock of this very expert, so a failure of it means something.

    The original is locked, in a temporary folder, with a key that is drawn at random and forgotten,
    so that a killed audit leaves nothing there that anyone could unlock, and aligned to the base.
    """
    key = Key.generate()
    with scratch() as folder:
        locked = folder / "locked"
        protect(inputs.original.path, locked, key)
        aligned = align_tensors(open_folder(locked), inputs.base)
        back = Weights.of_bytes(open_folder(locked), aligned.tensors)
        seconds = aligned.seconds
        del aligned
    left = _left(inputs, back)
    per = 1e6 * seconds / inputs.parameters
    return Control(
        "alignment undoes a lock",
        "alignment undoes a lock that this audit put on the original, without the key",
        left <= ALIGNED,
        f"distance to the original {left:.1%} of its task vector, in {seconds:.1f} s "
        f"({per:.3f} s per million parameters)",
        "Our attack fails on this architecture, so that its failure on the protected model would "
        "mean nothing. Please report it.",
    )


def unlocks(inputs: AuditInputs, key: Key) -> Control:
    """The key gives the original's weights back; they are compared in memory."""
    found = unlocked(inputs.protected, key)
    if found.lasting and found.exact:
        names = " and ".join(link.defence for link in found.lasting)
        return Control(
            "key unlocks",
            "the key gives back what was locked",
            True,
            f"the same to the bit as before the lock; {names} stays, which no key undoes",
        )
    if fitted(found.weights, inputs.candidates.base.state).digest == inputs.digests["original"]:
        return Control(
            "key unlocks", "the key gives the original back", True, "the same to the bit"
        )
    left = _left(inputs, found.weights)
    return Control(
        "key unlocks",
        "the key gives the original back",
        left <= ALIGNED,
        f"distance to the original {left:.1%} of its task vector",
        "Is this the key of this model, and is this the original it was made of?",
    )


def _left(inputs: AuditInputs, back: Weights) -> float:
    """A model's distance to the original, as a share of the original's task vector."""
    give_back()  # what alignment used, before anything else is read
    vector = Weights(inputs.candidates.base.state).distance_to(inputs.original)
    return back.distance_to(inputs.original) / vector if vector else 0.0


def documents(controls: Sequence[Control]) -> list[dict[str, Any]]:
    """For JSON."""
    return [control.document() for control in controls]
