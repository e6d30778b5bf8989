"""What the document says, found once for the page and the model card: worst cases and columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unmergeable.auditing.page import formatting as words
from unmergeable.auditing.page.prices import rising, told_apart
from unmergeable.auditing.report.schema import Attack, Cell, Document, Method, Price, Subject, Theft
from unmergeable.evaluation.value import strength


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
        # An attack may be there at several prices: the map shows the best of them.
        self.runs: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
        for cell in report["cells"]:
            self.runs[cell["subject"], cell["attack"], cell["method"]].append(cell)
        self._named = told = named(report)
        self.cells = {place: best_of(runs, told) or runs[0] for place, runs in self.runs.items()}

    def columns(self) -> list[Column]:
        """The open model, the protected one as released, then the attacks, as far as measured."""
        found = []
        for subject in ("open", "protected"):
            order = sorted(self.attacks.values(), key=lambda attack: attack["stage"] != "none")
            for attack in order:
                cells = self._of(subject, [attack])
                if cells:
                    best = best_of(self._counted(cells), self._named)
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
        plain = self._counted(self._of("protected", self._staged("none")))
        return best_of(plain, self._named)

    @property
    def attacked(self) -> Cell | None:
        """The verdict's cell or, where it names none, the best merge after any attack."""
        merging = self._staged("align", "data-free", "text", "labels")
        return self._named or strongest(self._counted(self._of("protected", merging)))

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
        """What each attack reaches, cheapest first; what the verdict names is there, too."""
        return told_apart(self.report["price_curve"]["attacks"], self.attacks, self._is_named)

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
        more = f" at one of {runs} prices" if runs > 1 else ""
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

    def _is_named(self, theft: Theft) -> bool:
        """Whether a point of the price curve is the verdict's."""
        return all(
            theft[part] == self.report["verdict"][part]  # type: ignore[literal-required]
            for part in ("attack", "method", "price")
        )

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


def named(report: Document) -> Cell | None:
    """The cell that the verdict names, if it names one."""
    verdict = report["verdict"]
    place = ("protected", verdict["attack"], verdict["method"])
    runs = [c for c in report["cells"] if (c["subject"], c["attack"], c["method"]) == place]
    return strongest([cell for cell in runs if cell["price"] == verdict["price"]] or runs)


def best_of(cells: Sequence[Cell], told: Cell | None) -> Cell | None:
    """The cell that the verdict names, if it is among these; else the strongest.

    Args:
        cells: to choose from.
        told: what `named` finds.
    """
    return told if any(cell is told for cell in cells) else strongest(cells)


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
