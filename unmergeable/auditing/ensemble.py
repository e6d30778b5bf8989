"""The standard ensemble: which merge methods and attacks an audit runs, with which coefficients.

Fixed and free of parameters, as in AutoAttack (arXiv 2003.01690): an auditor cannot choose, or
forget, what would embarrass the protection. A preset is a named subset of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unmergeable.errors import InputError
from unmergeable.merging import mergekit_bridge
from unmergeable.merging.method import MergeMethod

# The coefficients of the protected model and of each peer. A thief is not bound to [0, 1].
FINE = (0.15, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
# The first ones, which every attack meets, are those that a user would try and those that were seen
# to open holes.
_GRID = (
    *((1.0, 1.0), (0.5, 0.5), (0.7, 1.3), (1.0, 1.6), (0.3, 0.3), (1.6, 0.7), (0.3, 1.0)),
    *itertools.product((0.15, 0.5, 1.0, 1.6), (0.3, 0.7, 1.3, 2.0)),
)
# For methods that take seconds a merge: few ratios, each merged once and then scaled.
_PAIRS = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0))
_EQUAL = _PAIRS[:1]
_SHARES = ((0.5, 0.5), (0.4, 0.6), (0.6, 0.4), (0.25, 0.75), (0.75, 0.25))
SCALES = (1.0, 0.5, 0.3, 1.5, 2.0)

# The methods on which every attack beyond alignment is tried, and with how many settings each.
CORE = ("task_arithmetic",)
FEW = 8


@dataclass(frozen=True)
class Row:
    """A merge method of the matrix.

    Attributes:
        name: as users type it.
        title: for tables.
        source: "mergekit", "unmergeable" or "plugin".
        paper: where it comes from.
        settings: parameter sets to try; `weight` is (protected, each peer).
        scales: of the merged task vector, each tried with every setting.
        own: the method, where it is not mergekit's.
        wide: whether the neighbours of the best coefficients are tried too.
    """

    name: str
    title: str
    source: str
    paper: str = ""
    settings: tuple[Mapping[str, Any], ...] = ({},)
    scales: tuple[float, ...] = (1.0,)
    own: MergeMethod | None = None
    wide: bool = False

    @property
    def count(self) -> int:
        """How many candidates there are, without refinement."""
        return len(self.settings) * len(self.scales)

    def few(self) -> Row:
        """The row with its first settings alone, as attacks meet it."""
        return replace(self, settings=self.settings[:FEW], wide=False)

    @property
    def routed(self) -> bool:
        """Whether it deploys a set of weights per task rather than one model."""
        return self.own is not None and self.own.deploys != "model"


@dataclass(frozen=True)
class Preset:
    """A named subset of the ensemble.

    Attributes:
        name: as users type it.
        methods: names of merge methods; None for all.
        core: names of those on which every attack beyond alignment is tried.
        attacks: names of attacks beyond full alignment, ceilings among them; None for all.
        aligns: alignments under their papers' names, for comparison.
        line: points along the straight line from peer to protected model; 0 for none.
        settings: at most this many parameter sets a method, and one for those that are scaled,
            without refinement; None for all.
    """

    name: str
    methods: tuple[str, ...] | None = None
    core: tuple[str, ...] = CORE
    attacks: tuple[str, ...] | None = None
    aligns: tuple[str, ...] = ()
    line: int = 11
    settings: int | None = None

    @property
    def complete(self) -> bool:
        """Whether it is the whole ensemble, so that a verdict may rest on it."""
        whole = self.methods is None and self.attacks is None and self.settings is None
        return whole and set(CORE) <= set(self.core)

    def tries(self, attack: str) -> bool:
        """Whether an attack beyond full alignment is in it, or a ceiling."""
        return self.attacks is None or attack in self.attacks


def _weights(pairs: tuple[tuple[float, float], ...], **rest: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"weight": pair, **rest} for pair in pairs)


def _scaled(pairs: tuple[tuple[float, float], ...] = _EQUAL, **rest: Any) -> dict[str, Any]:
    return {"settings": _weights(pairs, **rest), "scales": SCALES}


# mergekit asks for these; its own defaults hold for all that is not named here. Densities and the
# like were chosen on validation items of open merges, not on protected ones.
_MERGEKIT: dict[str, dict[str, Any]] = {
    "arcee_fusion": {},
    "breadcrumbs": _scaled(density=0.9, gamma=0.01),
    "breadcrumbs_ties": _scaled(density=0.9, gamma=0.01),
    "dare_linear": _scaled(density=0.5),
    "dare_ties": _scaled(density=0.5),
    "della": _scaled(density=0.5, normalize=False),
    "della_linear": _scaled(density=0.5),
    "karcher": {},
    "linear": {"settings": _weights(_SHARES)},
    "model_stock": {},
    "multislerp": {"settings": _weights(_SHARES)},
    "nearswap": {"settings": tuple({"t": t} for t in (0.0001, 0.001, 0.01))},
    "nuslerp": {"settings": _weights(_SHARES)},
    "passthrough": {},
    "ram": {},
    "ramplus_tl": {},
    "sce": {"settings": tuple({"select_topk": k} for k in (1.0, 0.5, 0.1))},
    "slerp": {"settings": tuple({"t": t} for t in (0.5, 0.4, 0.6, 0.25, 0.75))},
    "task_arithmetic": {"settings": _weights(_GRID), "wide": True},
    "ties": _scaled(_PAIRS, density=0.5, normalize=False),
}
# Fewer steps at a higher rate than their papers', where those take a CPU minutes for each merge.
_OWN: dict[str, tuple[dict[str, Any], ...]] = {
    "adamerging": ({"steps": 20, "rate": 5e-3},),
    "adamerging_task": ({"steps": 20, "rate": 5e-3},),
    "consensus_ta": ({}, {"k": 1}),
    "mdm_oc": ({}, {"order": (1, 0)}),
    "smile": ({}, {"k": -1}),
    "wudi": ({"steps": 30, "rate": 1e-4},),
}
_PAPERS = {
    "breadcrumbs": "arXiv 2312.06795",
    "breadcrumbs_ties": "arXiv 2312.06795",
    "dare_linear": "arXiv 2311.03099",
    "dare_ties": "arXiv 2311.03099",
    "della": "arXiv 2406.11617",
    "della_linear": "arXiv 2406.11617",
    "linear": "arXiv 2203.05482",
    "model_stock": "arXiv 2403.19522",
    "sce": "arXiv 2408.07990",
    "task_arithmetic": "arXiv 2212.04089",
    "ties": "arXiv 2306.01708",
}

STANDARD = Preset("standard", aligns=("base-reset", "aga", "kabsch", "weight-matching"))
QUICK = Preset(
    "quick",
    methods=("linear", "task_arithmetic", "ties", "slerp", "tsv", "emr"),
    attacks=("reset",),
    line=5,
    settings=8,
)
DEMO = Preset(
    "demo",
    methods=("linear", "task_arithmetic", "ties"),
    core=("task_arithmetic",),
    attacks=(),
    line=3,
    settings=2,
)
PRESETS = {preset.name: preset for preset in (STANDARD, QUICK, DEMO)}


def rows(preset: Preset) -> list[Row]:
    """The merge methods of a preset: mergekit's, our own, and user-registered ones.

    Raises:
        InputError: the preset names a method that is not installed.
    """
    from unmergeable.merging.methods import OWN, methods

    found: dict[str, Row] = {}
    for name in mergekit_bridge.methods():
        # A method that a newer mergekit brings is run with its defaults.
        found[name] = Row(name, name, "mergekit", _PAPERS.get(name, ""), **_MERGEKIT.get(name, {}))
    for name, method in methods().items():
        source = "unmergeable" if name in OWN else "plugin"
        settings = _OWN.get(name, ({},))
        # A method that deploys more than one set of weights sets its own scales.
        scales = (1.0,) if method.deploys != "model" else SCALES
        found[name] = Row(name, method.title, source, method.paper, settings, scales, method)
    chosen = list(found) if preset.methods is None else list(preset.methods)
    if missing := [name for name in chosen if name not in found]:
        raise InputError(f"preset {preset.name} names the method {missing[0]!r}, unknown here.")
    ordered = sorted((found[name] for name in chosen), key=lambda row: row.routed)
    limit = preset.settings
    if limit is None:
        return ordered
    return [
        replace(row, settings=row.settings[: 1 if len(row.scales) > 1 else limit], wide=False)
        for row in ordered
    ]


def neighbours(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A setting with its coefficients one step of the fine grid up or down."""
    a, b = setting["weight"]

    def near(value: float) -> tuple[float, ...]:
        at = min(range(len(FINE)), key=lambda i: abs(FINE[i] - value))
        return FINE[max(0, at - 1) : at + 2]

    pairs = [pair for pair in itertools.product(near(a), near(b)) if pair != (a, b)]
    return [{**setting, "weight": pair} for pair in pairs]
