"""The tables of the docs that follow from the code alone, most from its registries: `make docs`.

`python -m unmergeable.bench.registry_tables DOCS` puts each between the markers of its page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmergeable.architectures.declaration import load
from unmergeable.architectures.declaration import stems as all_stems
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.rules import Declaration
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

# What some configs leave open.
_UNSET = {"head_dim": 128, "vocab_size": 33}
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


def secret_by_family(stems: Iterable[str] = ()) -> str:
    """What a lossless lock draws, in bits, for each family at the sizes of its default config.

    Args:
        stems: of the data files; by default all.
    """
    head = "family (file)", "layers", "once", "in each layer", "by space, in each layer"
    rows = []
    for stem in stems or all_stems():
        rule = load(stem)
        try:
            layout = _default_layout(rule)
        except Exception:  # whatever a class raises at sizes that its own config does not fit
            rows.append((f"{rule.family} (`{stem}`)", "", "", "", ""))
            continue
        bits = LockSettings.resolve({}, layout).bits(layout) if layout.movable() else {}
        once = sum(n for name, n in bits.items() if not layout.spaces[name].per)
        stacks = {space.per[0] for space in layout.movable().values() if space.per}
        count = sum(layout.spaces[name].size or 0 for name in stacks)
        parts = {n: each / count for n, each in bits.items() if layout.spaces[n].per and each}
        told = (f"{name} {each:,.0f}" for name, each in parts.items())
        rows.append(
            (
                f"{rule.family} (`{stem}`)",
                f"{count}" if count else "",
                f"{once:,.0f}",
                f"{sum(parts.values()):,.0f}",
                "; ".join(told),
            )
        )
    return _table(head, rows)


def _default_layout(rule: Declaration) -> Layout:
    """The layout of a family's first model class, at the sizes of its config's defaults."""
    torch, transformers = optional("torch"), optional("transformers")
    from transformers.core_model_loading import revert_weight_conversion

    config = transformers.CONFIG_MAPPING[rule.model_type]()
    stated = config.to_dict()
    for key, value in _UNSET.items():
        if key in stated and stated[key] is None:
            setattr(config, key, value)
    eyes, reader = getattr(config, "vision_config", None), getattr(config, "text_config", None)
    if reader is not None and getattr(eyes, "out_hidden_size", None):  # the defaults do not fit
        setattr(eyes, "out_hidden_size", reader.hidden_size)  # noqa: B010
    name = next(one for one in rule.classes if hasattr(transformers, one))
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
        state = revert_weight_conversion(model, model.state_dict())
    known = json.loads(config.to_json_string(use_diff=False), object_hook=_of_kinds)
    known["architectures"] = [name]
    return Layout.of(known, {key: tuple(one.shape) for key, one in state.items()})


def _of_kinds(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what it says again for single layers, by default."""
    return {key: value for key, value in config.items() if key != "per_layer_config"}


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
    "architectures.md": {"secret": secret_by_family},
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
