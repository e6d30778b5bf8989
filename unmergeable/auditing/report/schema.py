"""What `report.json` holds, as types; [`check`][unmergeable.auditing.report.check] reads them too.

Measured numbers are finite or null. Further keys are allowed: readers pass over them.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

SCHEMA = "unmergeable.audit/2"

Number = float | None
Subject = Literal["open", "protected"]
Stage = Literal["none", "align", "data-free", "text", "labels", "ceiling"]
CurveName = Literal["open", "protected", "aligned"]


class Price(TypedDict):
    """What an attack costs."""

    seconds: Number
    labelled: int
    unlabelled: int
    flops: Number


class Estimate(TypedDict):
    """A figure with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Score(TypedDict):
    """The accuracy of one model on one task."""

    accuracy: Number
    low: Number
    high: Number
    total: int


class Model(TypedDict):
    """One of the models involved."""

    name: str
    digest: str | None
    parameters: int | None
    family: str | None
    defence: str | None


class Models(TypedDict):
    """All models involved."""

    protected: Model
    base: Model
    original: Model
    peers: list[Model]


class Verdict(TypedDict):
    """The answer, its reasons, what would decide it, and the worst case for the owner."""

    sentence: str
    answer: Literal["broken", "holds", "undecided"]
    broken: bool
    reasons: list[str]
    needs: list[str]
    level: Literal[0, 1, 2, 3] | None
    value: Estimate | None
    theft: Estimate | None
    attack: str | None
    method: str | None
    price: Price | None


class TaskScores(TypedDict):
    """A task's scores before any merge."""

    base: Score
    expert: Score
    protected: Score


class Task(TypedDict):
    """What models are scored on; `of` says whose skill it is, `items` how many it has."""

    name: str
    title: str
    of: str
    kind: str
    items: dict[str, int]
    hash: str
    scores: TaskScores


class Control(TypedDict):
    """A check without which a broken tool looks like a good defence."""

    name: str
    title: str
    passed: bool
    figure: str


class Method(TypedDict):
    """A merge method; a routed one deploys a set of weights per task, so no verdict counts it."""

    name: str
    title: str
    source: str
    paper: str | None
    note: str | None
    routed: bool


class Trained(TypedDict):
    """Of an attack that trains: the settings that won, and its baselines.

    `open` is what the same theft costs by the same attack on the open expert, `multiple` the price
    in seconds as a multiple of that, `alone` what the attack is worth without the release.
    """

    won: str
    open: Price | None
    multiple: Number
    alone: Estimate | None


class Attack(TypedDict):
    """What is done to the protected model before it is merged."""

    name: str
    title: str
    what: str
    stage: Stage
    price: Price
    trained: NotRequired[Trained | None]


class Cell(TypedDict):
    """One merge method after one attack: the best over the coefficients tried."""

    subject: Subject
    attack: str
    method: str
    status: Literal["measured", "failed", "skipped"]
    reason: str | None
    coefficients: dict[str, Any] | None
    tried: int
    value: Estimate | None
    shares: dict[str, Number] | None
    scores: dict[str, Score] | None
    theft: Estimate | None
    price: Price | None
    finite: bool
    seconds: Number


class LineCurve(TypedDict):
    """What one model gives along the line, by task."""

    name: CurveName
    title: str
    losses: dict[str, list[Number]]
    accuracies: dict[str, list[Number]]


class Line(TypedDict):
    """The straight line from the peer (0) to the model (1)."""

    at: list[float]
    curves: list[LineCurve]


class Theft(TypedDict):
    """One attack on the price curve."""

    attack: str
    method: str | None
    price: Price
    theft: Estimate | None


class CeilingPoint(TypedDict):
    """What a ceiling gives at one price."""

    price: Price
    theft: Estimate | None


class Ceiling(TypedDict):
    """What open weights always allow: distilling or fine-tuning the release."""

    name: str
    title: str
    points: list[CeilingPoint]


class PriceCurve(TypedDict):
    """Theft against its price."""

    attacks: list[Theft]
    ceilings: list[Ceiling]


class DisplacementCurve(TypedDict):
    """One model's relative distance to the base, by layer."""

    name: CurveName
    values: list[Number]


class Displacement(TypedDict):
    """How far each layer is from the base."""

    layers: list[str]
    curves: list[DisplacementCurve]


class Distances(TypedDict):
    """How far models are from the base, relative to its norm, and what to say of those too far."""

    of: dict[str, Number]
    far: dict[str, str]


class Claim(TypedDict):
    """What a defence's source claims, beside what was measured here."""

    defence: str
    source: str
    claim: str
    claimed: str
    measured: str


class ScenarioRow(TypedDict):
    """How often one model told what it should not."""

    name: str
    exact_match: Score


class Scenario(TypedDict):
    """An attack of a published kind that is played from beginning to end, beside the matrix."""

    name: str
    title: str
    what: str
    rows: list[ScenarioRow]
    controls: list[Control]
    seconds: Number


class Flag(TypedDict):
    """A sign that the audit, or the defence, is not what it seems."""

    name: str
    severity: Literal["red", "amber"]
    what: str


class NotRun(TypedDict):
    """Something this audit left out; `need` is what would run it, where a verdict asks for it."""

    what: str
    why: str
    need: str


class Machine(TypedDict):
    """Where it was measured."""

    processor: str | None
    cores: int | None
    memory_gb: Number
    accelerator: str | None


class Provenance(TypedDict):
    """How to repeat it."""

    command: str
    seed: int
    versions: dict[str, str]
    machine: Machine
    started: str
    seconds: Number
    preset: str
    evaluations: int
    looked_up: int
    hashes: dict[str, Any]


class Document(TypedDict):
    """The whole document."""

    schema: str
    verdict: Verdict
    subject: Models
    tasks: list[Task]
    controls: list[Control]
    methods: list[Method]
    attacks: list[Attack]
    cells: list[Cell]
    line: Line | None
    price_curve: PriceCurve
    displacement: Displacement | None
    distances: Distances
    claims: list[Claim]
    scenarios: NotRequired[list[Scenario]]
    flags: list[Flag]
    not_run: list[NotRun]
    provenance: Provenance
