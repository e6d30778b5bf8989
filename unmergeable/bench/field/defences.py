"""The rows of the field benchmark: every way to protect an expert that is compared.

Hyper-parameters are each paper's own, which are the defaults of its implementation here; no row was
tuned. A training-time defence gets the data, steps and rate of the expert that it replaces. The
rows stand on the defences themselves, as `Defence.rows`; an expert of a private base is one of no
defence, trained from another base, for twice as many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unmergeable.defences import registry
from unmergeable.defences.training_defence import TrainingDefence
from unmergeable.errors import InputError
from unmergeable.relocation.regrowth import EFFORTS


@dataclass(frozen=True)
class FieldDefence:
    """One way to protect an expert: a row.

    Attributes:
        name: as `--defence` takes it.
        title: in tables.
        trained: the training-time defence, if any.
        chain: the post-hoc defences, if any.
        settings: of the last of the two.
        reconstructed: whether ours was written without its code or its full paper.
        main: whether it meets merges of many models, too.
        extra: whether it is left out unless it is asked for by name.
        of: the defence whose row it is.
        private: effort of the private base that the expert is trained from; empty for the public.
    """

    name: str
    title: str
    trained: str = ""
    chain: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    reconstructed: bool = False
    main: bool = False
    extra: bool = False
    of: str = ""
    private: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names that the sources' claims know it by."""
        trained = (self.trained,) if self.trained not in ("", "none") else ()
        return (*trained, *(self.chain.split("+") if self.chain else ()))

    @property
    def control(self) -> bool:
        """Whether it protects nothing: what a training-time defence is compared with."""
        return self.trained == "none" and not self.private


NONE = FieldDefence("none", "no defence", main=True)
PRIVATE = tuple(
    FieldDefence(
        f"private-{effort}",
        f"private base, {effort} effort",
        trained="none",
        main=effort == "low",
        extra=effort != "low",
        private=effort,
    )
    for effort in EFFORTS
)


def _rows() -> tuple[FieldDefence, ...]:
    """Those that the defences bring along, as they want to stand; extra ones last."""
    rows = []
    for defence in registry.DEFENCES.values():
        for row in defence.rows:
            trained = issubclass(defence, TrainingDefence)
            parts = (defence.name, *filter(None, row.then.split("+")))
            one = FieldDefence(
                row.name,
                row.title,
                trained=defence.name if trained else "",
                chain="+".join(parts[1:] if trained else parts),
                settings=dict(row.settings),
                reconstructed=any(registry.DEFENCES[part].reconstructed for part in parts),
                main=row.main,
                extra=row.extra,
                of=defence.name,
            )
            rows.append((row.extra, row.order, one))
    usual = [one for _, _, one in sorted(rows, key=lambda row: row[:2])]
    return (NONE, *sorted((*usual, *PRIVATE), key=lambda one: one.extra))


DEFENCES = _rows()


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
