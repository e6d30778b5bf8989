"""What the document says, found once for the page and the model card: worst cases and columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from unmergeable.auditing.report import formatting as words
from unmergeable.auditing.report.schema import Attack, Cell, Document, Method, Price, Subject, Theft
from unmergeable.evaluation.value import strength

_CHEAPER = (
    2 / 3
)  # a weaker run of an attack is told apart if it takes at most that much of the time


@dataclass(frozen=True)
class Column:
    """One column of the heat map: a model, and what was done to it before merging."""

    subject: Subject
    attack: Attack
    best: Cell | None
    price: Price

    @property
    def group(self) -> str:
        """The heading it stands under."""
        if self.subject == "open":
            return "Open model"
        return "Protected" if self.attack["stage"] == "none" else "After an attack"

    @property
    def title(self) -> str:
        """Its own heading."""
        if self.attack["stage"] != "none":
            return self.attack["title"]
        return "as it is" if self.subject == "open" else "as released"


class Reading:
    """Look-ups in a checked document."""

    def __init__(self, report: Document) -> None:
        self.report = report
        self.attacks: dict[str, Attack] = {each["name"]: each for each in report["attacks"]}
        self.methods: dict[str, Method] = {each["name"]: each for each in report["methods"]}
        # An attack may be there at several prices: a cell of the map is the best of them.
        self.runs: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
        for cell in report["cells"]:
            self.runs[cell["subject"], cell["attack"], cell["method"]].append(cell)
        self.cells = {place: strongest(runs) or runs[0] for place, runs in self.runs.items()}

    def columns(self) -> list[Column]:
        """The open model, the protected one as released, then the attacks, as far as measured."""
        found = []
        for subject in ("open", "protected"):
            order = sorted(self.attacks.values(), key=lambda attack: attack["stage"] != "none")
            for attack in order:
                cells = self._of(subject, [attack])
                if cells:
                    best = strongest(self._counted(cells))
                    price = self.price_of(best) if best else attack["price"]
                    found.append(Column(subject, attack, best, price))
        return found

    @property
    def open(self) -> Cell | None:
        """The best merge of the open model."""
        return strongest(self._counted(self._of("open", self._staged("none"))))

    @property
    def released(self) -> Cell | None:
        """The best merge of the protected model as it was released."""
        return strongest(self._counted(self._of("protected", self._staged("none"))))

    @property
    def attacked(self) -> Cell | None:
        """The verdict's cell or, where it names none, the best merge after any attack."""
        verdict = self.report["verdict"]
        named = self.runs.get(("protected", verdict["attack"] or "", verdict["method"] or ""), [])
        priced = [cell for cell in named if cell["price"] == verdict["price"]]
        merging = self._staged("align", "data-free", "text", "labels")
        others = self._counted(self._of("protected", merging))
        return strongest(priced or named) or strongest(others)

    @property
    def price(self) -> Price | None:
        """What the attack of the verdict costs."""
        verdict, cell = self.report["verdict"], self.attacked
        if verdict["price"] or cell is None:
            return verdict["price"]
        return self.price_of(cell)

    def price_of(self, cell: Cell) -> Price:
        """A cell's own price, or its attack's."""
        return cell["price"] or self.attacks[cell["attack"]]["price"]

    def who(self, cell: Cell) -> str:
        """Which attack and method a cell is, in words."""
        attack, method = self.attacks[cell["attack"]], self.methods[cell["method"]]["title"]
        if attack["stage"] == "none":
            return f"{method}, no attack"
        return f"{attack['title']}, then {method}"

    def thefts(self) -> list[Theft]:
        """What each attack reaches, cheapest first: its best, and less where that is far cheaper.

        An attack is on the price curve with every merge method, often at about the same price.
        """
        kept: list[Theft] = []
        for attack in self.attacks:
            tried = [t for t in self.report["price_curve"]["attacks"] if t["attack"] == attack]
            told: list[Theft] = []
            for theft in reversed(rising(tried) or tried[:1]):
                if not told or _seconds(theft) <= _CHEAPER * _seconds(told[-1]):
                    told.append(theft)
            kept += told
        return sorted(kept, key=_seconds)

    def frontier(self) -> list[Theft]:
        """All that reach more than everything cheaper does, on the price curve."""
        return rising(self.report["price_curve"]["attacks"])

    def detail(self, cell: Cell) -> str:
        """All that is known of a cell, one fact a line."""
        lines = [f"{self.who(cell)}, of the {cell['subject']} model"]
        if cell["status"] != "measured":
            return "\n".join([*lines, f"{cell['status']}: {cell['reason'] or 'no reason given'}"])
        lines.append(f"V {words.both(cell['value'])}")
        if cell["theft"]:
            lines.append(f"theft {words.both(cell['theft'])}")
        if cell["shares"]:
            lines.append("share of each expert's gain: " + self.shares(cell))
        if cell["coefficients"]:
            lines.append(words.settings(cell["coefficients"]))
        lines.append(f"price: {words.cost(self.price_of(cell))}")
        runs = len(self.runs[cell["subject"], cell["attack"], cell["method"]])
        more = f" at the best of {runs} prices" if runs > 1 else ""
        lines.append(f"the best of {words.plural(cell['tried'], 'merge')} tried{more}")
        return "\n".join([*lines, *([cell["reason"]] if cell["reason"] else [])])

    def training(self, attack: Attack) -> str:
        """Which settings of an attack that trains won, and what it is a multiple of."""
        found = attack.get("trained")
        if not found:
            return words.NONE
        told = [found["won"]]
        if found["multiple"] is not None:
            told.append(f"{found['multiple']:.1f} times its price on the open expert")
        if found["alone"]:
            told.append(f"without the release V {words.both(found['alone'])}")
        return "; ".join(told)

    def shares(self, cell: Cell) -> str:
        """What a merge has of each task's gain."""
        titles = {task["name"]: task["title"] for task in self.report["tasks"]}
        found = cell["shares"] or {}
        return ", ".join(f"{titles[name]} {words.number(found[name])}" for name in found)

    def _counted(self, cells: Iterable[Cell]) -> list[Cell]:
        """Cells of methods that give one model: anyone who routes may as well keep both whole."""
        return [cell for cell in cells if not self.methods[cell["method"]]["routed"]]

    def _staged(self, *stages: str) -> list[Attack]:
        return [attack for attack in self.attacks.values() if attack["stage"] in stages]

    def _of(self, subject: str, attacks: Iterable[Attack]) -> list[Cell]:
        names = {attack["name"] for attack in attacks}
        return [
            cell
            for cell in self.report["cells"]
            if cell["subject"] == subject and cell["attack"] in names
        ]


def strongest(cells: Iterable[Cell]) -> Cell | None:
    """The best cell, of those that have a figure."""

    def strong(cell: Cell) -> tuple[float, float, float]:
        low = cell["value"]["low"] if cell["value"] else None
        return strength(worth(cell), cell["price"], low)

    found = [cell for cell in cells if worth(cell) is not None]
    return max(found, key=strong, default=None)


def worth(cell: Cell) -> float | None:
    """A cell's V, if it has one."""
    return cell["value"]["value"] if cell["value"] else None


def rising(thefts: Iterable[Theft]) -> list[Theft]:
    """Those that take more than everything cheaper does."""
    kept: list[Theft] = []
    for theft in sorted(thefts, key=lambda theft: (_seconds(theft), -_worth(theft))):
        if _worth(theft) > (_worth(kept[-1]) if kept else -1.0):
            kept.append(theft)
    return kept


def _seconds(theft: Theft) -> float:
    return theft["price"]["seconds"] or 0.0


def _worth(theft: Theft) -> float:
    found = theft["theft"]["value"] if theft["theft"] else None
    return -1.0 if found is None else found
