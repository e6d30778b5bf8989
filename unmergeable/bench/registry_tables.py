"""The tables of the docs that follow from the code alone, most from its registries: `make docs`.

`python -m unmergeable.bench.registry_tables DOCS` puts each between the markers of its page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.methods import METHODS
from unmergeable.attacks.ladder import CEILINGS, LADDER
from unmergeable.auditing import memory_plan
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.defences.lock import LockSettings
from unmergeable.defences.registry import DEFENCES
from unmergeable.extras import optional
from unmergeable.merging.in_memory import refusal
from unmergeable.merging.methods import OWN
from unmergeable.settings import described

_NEEDS = {"data-free": "nothing", "text": "text", "labels": "labels", "ceiling": "no merge"}


def defences() -> str:
    """Every defence that protects something, as its summary has it."""
    head = "name", "source", "claims", "exact?", "needs", "changes in the folder", "what undoes it"
    rows = []
    for one in DEFENCES.values():
        if (card := one.summary) is not None:
            about = card.claims, card.exact, card.needs, card.changes, card.undone_by
            rows.append((f"`{one.name}`", one.paper, *about))
    return _table(head, rows)


def alignments() -> str:
    """Every method of alignment."""
    rows = ((f"`{one.name}`", one.sentence, one.source) for one in METHODS.values())
    return _table(("method", "does", "source"), rows)


def attacks() -> str:
    """Every attack of the ladder and every ceiling; those that differ in their data are one row."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for attack in (*LADDER, *CEILINGS):
        title, _, kind = attack.title.partition(", ")
        kinds.setdefault((title, attack.stage, attack.what), []).append(kind)
    rows = (
        (title, "; ".join(kind or "plain" for kind in found if found != [""]), _NEEDS[stage], what)
        for (title, stage, what), found in kinds.items()
    )
    return _table(("attack", "variants", "needs", "does"), rows)


def methods() -> str:
    """Every merge method of our own."""
    rows = []
    for one in OWN.values():
        settings = "<br>".join(f"`{name}`: {text}" for name, text in described(one.settings))
        use = f"`audit` only: it {why}" if (why := refusal(one)) else "`merge` and `audit`"
        rows.append((f"`{one.name}`", one.title, one.paper, settings or "none", use))
    return _table(("name", "method", "paper", "settings", "where"), rows)


def secret_sizes() -> str:
    """What a lock draws for a model with the shapes of Llama 2 7B, in bits, by space."""
    torch, transformers = optional("torch"), optional("transformers")
    config = transformers.LlamaConfig(vocab_size=32000, intermediate_size=11008)
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        state = transformers.LlamaForCausalLM(config).state_dict()
    layout = Layout.of(config.to_dict(), {name: tuple(one.shape) for name, one in state.items()})
    kinds: tuple[dict[str, Any], ...] = ({}, {"scales": True}, {"kind": "general"})
    drawn = [LockSettings.resolve(kind, layout).bits(layout) for kind in kinds]
    head = (
        "space",
        "instances",
        "positions of each",
        "lossless",
        "with `scales`",
        "general, discrete",
    )
    rows = [
        (
            name,
            f"{sum(1 for _ in layout.instances(space)):,}",
            f"{space.size or 0:,}",
            *(f"{bits[name]:,.0f}" for bits in drawn),
        )
        for name, space in layout.movable().items()
    ]
    rows.append(("all", "", "", *(f"{sum(bits.values()):,.0f}" for bits in drawn)))
    return _table(head, rows)


def audit_memory() -> str:
    """What an audit takes, by the size of its models."""
    parts = memory_plan.SCORING, memory_plan.TRAINING, memory_plan.HOST
    rows = [
        (
            f"{billions}B",
            *(f"{memory_plan.needed(billions * 10**9, each) / 1e9:,.0f} GB" for each in parts),
        )
        for billions in (1, 8, 70)
    ]
    head = (
        "parameters",
        "on the device: merges, scores, alignment",
        "on the device: attacks that train, too",
        "main memory beside an accelerator",
    )
    return _table(head, rows)


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "defences.md": {"defences": defences},
    "attacks.md": {"alignments": alignments, "ladder": attacks},
    "merge-methods.md": {"merge-methods": methods},
    "security.md": {"secret": secret_sizes},
    "scale.md": {"audit-memory": audit_memory},
}


def written(page: str, text: str) -> str:
    """A page's text with its tables as they are now.

    Args:
        page: its name in `PAGES`.
        text: what it has now.

    Raises:
        ValueError: a text without the markers.
    """
    for name, table in PAGES[page].items():
        text = put(text, f"<!-- {name}: begin -->", f"<!-- {name}: end -->", table())
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Writes the tables into the pages of the folder that is given."""
    docs = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for page in PAGES:
        path = docs / page
        path.write_text(written(page, path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
