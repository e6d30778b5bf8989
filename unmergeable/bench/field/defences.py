"""The rows of the field benchmark: every way to protect an expert that is compared.

Hyper-parameters are each paper's own, which are the defaults of its implementation here; no row was
tuned. A training-time defence gets the data, steps and rate of the expert that it replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unmergeable.errors import InputError


@dataclass(frozen=True)
class FieldDefence:
    """One way to protect an expert.

    Attributes:
        name: as `--defence` takes it.
        title: in tables.
        trained: the training-time defence, if any.
        chain: the post-hoc defences, if any.
        settings: of the last of the two.
        reconstructed: whether ours was written without its code or its full paper.
        main: whether it meets merges of many models, too.
        extra: whether it is left out unless it is asked for by name.
    """

    name: str
    title: str
    trained: str = ""
    chain: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    reconstructed: bool = False
    main: bool = False
    extra: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The names that the sources' claims know it by."""
        trained = (self.trained,) if self.trained not in ("", "none") else ()
        return (*trained, *(self.chain.split("+") if self.chain else ()))

    @property
    def control(self) -> bool:
        """Whether it protects nothing: what a training-time defence is compared with."""
        return self.trained == "none"


NONE = FieldDefence("none", "no defence", main=True)

DEFENCES: tuple[FieldDefence, ...] = (
    NONE,
    FieldDefence("lock", "lock", chain="lock", main=True),
    FieldDefence("lock-general", "lock, general", chain="lock", settings={"kind": "general"}),
    FieldDefence("mergelock", "MergeLock-style", chain="mergelock", reconstructed=True, main=True),
    FieldDefence("params", "PaRaMS, diagonal", chain="params", main=True),
    FieldDefence(
        "mergebarrier", "MergeBarrier-style", chain="mergebarrier", reconstructed=True, main=True
    ),
    FieldDefence(
        "mergeguard", "MergeGuard-style", trained="mergeguard", reconstructed=True, main=True
    ),
    FieldDefence("trap2", "Trap²", trained="trap2", main=True),
    FieldDefence(
        "arf-lock", "ARF + lock", trained="arf", chain="lock", reconstructed=True, main=True
    ),
    FieldDefence(
        "params-mergelock", "PaRaMS + MergeLock", chain="params+mergelock", reconstructed=True
    ),
    # The control of all that train: another expert, by the same loop and data.
    FieldDefence("retrained", "trained again, no defence", trained="none", main=True),
    FieldDefence("arf", "ARF alone", trained="arf", reconstructed=True, extra=True),
    FieldDefence(
        "mergeguard-flip",
        "MergeGuard-style, flip",
        trained="mergeguard",
        settings={"reading": "flip"},
        reconstructed=True,
        extra=True,
    ),
    FieldDefence(
        "params-symmetric",
        "PaRaMS, symmetric",
        chain="params",
        settings={"variant": "symmetric"},
        extra=True,
    ),
    FieldDefence(
        "params-nonsymmetric",
        "PaRaMS, nonsymmetric",
        chain="params",
        settings={"variant": "nonsymmetric"},
        extra=True,
    ),
    FieldDefence(
        "params-as-published",
        "PaRaMS as published",
        chain="params",
        settings={"as_published": "true"},
        extra=True,
    ),
)


def chosen_defences(names: Sequence[str] = ()) -> list[FieldDefence]:
    """The rows of these names; without names, all but the extra ones.

    Raises:
        InputError: an unknown name.
    """
    known = {defence.name: defence for defence in DEFENCES}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"no row {unknown[0]!r} in the field; there is {', '.join(known)}.")
    wanted = set(names) or {defence.name for defence in DEFENCES if not defence.extra}
    return [defence for defence in DEFENCES if defence.name in wanted]
