"""Run the demonstration: base, two experts, a lock, three merge tools, and the attack on the lock.

How its settings were chosen, on validation items alone: for the definitions, of two sets of eight
kinds the one whose expert was more accurate (94 against 92 %), and of three prompts the one that
left the expert most to gain (the base has 54 %, 58 % and 65 %); for the mails, of two prompts the
one whose expert gained more; for each expert, of two recipes of about a minute the one that was
more accurate; for TIES, of the densities 0.1 to 0.8 the one whose open merges were worth most.
Merge weights were not searched: they are the ones a user would try first. No expert and no merge
had met a test item before all that was fixed; the base alone had, in an early look at six kinds.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.demo.scores import Scorer, Weights
from unmergeable.demo.value import merge_value
from unmergeable.extras import optional
from unmergeable.tasks.glosses import glosses
from unmergeable.tasks.scoring import Score
from unmergeable.tasks.spam import spam
from unmergeable.training.experts import Recipe, expert
from unmergeable.zoo import cache as store
from unmergeable.zoo.smollm2 import NAME, smollm2

if TYPE_CHECKING:
    from rich.console import Console

    from unmergeable.attacks.align import AlignReport
    from unmergeable.audit.equivalence import VerifyReport

OWNER = Recipe(steps=60, batch=16, rate=7e-5)
PEER = Recipe(steps=80, batch=16, rate=7e-5)


@dataclass(frozen=True)
class Method:
    """A merge method with the coefficients that the demonstration uses.

    Attributes:
        title: What the table calls it, coefficients included.
        name: mergekit's name of it.
        based: Whether it takes task vectors from the base.
        whole_vectors: Whether it adds whole task vectors to the base.
        parameters: mergekit's, per-model ones in the order (owner's, peer's).
    """

    title: str
    name: str
    based: bool = True
    whole_vectors: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


METHODS = (
    Method("linear 0.5+0.5", "linear", False, parameters={"weight": [0.5, 0.5]}),
    Method("task arithmetic 1+1", "task_arithmetic", True, True, parameters={"weight": [1.0, 1.0]}),
    Method(
        "TIES 1+1, density 0.5", "ties", parameters={"weight": [1.0, 1.0], "density": [0.5, 0.5]}
    ),
)
STATES = ("open", "locked", "aligned", "unlocked")


def run(cache: str | Path | None = None, console: Console | None = None) -> dict[str, Any]:
    """Fine-tune two experts of one base, lock one, attack, merge, unlock; measure all of it.

    The first run takes minutes and fills the cache: the model, the data, both experts and every
    measured score. Later runs lock, verify, align and unlock anew and look the scores up by the
    content of the weights they find. The key is drawn at random for each cache, so the scores of
    locked merges differ a little from one cache to another.

    Args:
        cache: The cache folder; see [`root`][unmergeable.zoo.cache.root].
        console: Where progress goes; None shows none.

    Returns:
        A JSON-able dict without NaN: `model`; `tasks`, the owner's and the peer's; `rows` (name,
        state, method, scores by task, shares of the gains by task, value with its interval, each
        None where it cannot be said); `lock` (same: whether the locked expert verifies against the
        open one, which the caller must look at; difference relative to the largest logit, None if
        not finite; unlocked_identical); `attack` (seconds; residual: what alignment left, in
        units of the expert's task vector); `seconds` by stage; `measured` (models that were run);
        `software`.

    Raises:
        UnmergeableError: A download failed, or the lock was refused.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model here is a folder
    for library in ("torch", "transformers", "mergekit", "scipy", "gguf", "accelerate"):
        optional(library)  # better now than after minutes
    from rich.console import Console

    _quiet()
    console = console or Console(quiet=True)
    folder = store.root(cache)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        console.print(f"{name} ...", style="dim", highlight=False)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("model"):
        base = smollm2(cache)
    with stage("data"):
        tasks = (glosses(cache), spam(cache))
    with stage("owner's expert"):
        owner = expert(base, tasks[0], OWNER, cache, console)
    with stage("peer's expert"):
        peer = expert(base, tasks[1], PEER, cache, console)
    with stage("locking, verifying and unlocking"):
        lock = _lock(owner, folder / "demo")
    with stage("aligning the locked expert"):
        aligned, attack = _attack(lock.locked, base, folder / "demo")
    scorer = Scorer(tasks, folder)
    with stage("measuring the models"):
        singles = {
            name: scorer.folder(path)
            for name, path in (
                ("base", base),
                ("owner's expert", owner),
                ("peer's expert", peer),
                ("owner's expert, locked", lock.locked),
            )
        }
    experts = [singles["owner's expert"][0], singles["peer's expert"][1]]

    def row(name: str, scores: list[Score], state: str, method: Method | None) -> dict[str, Any]:
        worth = merge_value(scores, singles["base"], experts)
        names = [task.name for task in tasks]
        return {
            "name": name,
            "state": state,
            "method": method and method.title,
            "whole_vectors": bool(method and method.whole_vectors),
            "scores": dict(zip(names, map(_cell, scores), strict=True)),
            "shares": worth and dict(zip(names, worth.shares, strict=True)),
            "value": worth and worth.value,
            "interval": worth and [worth.low, worth.high],
        }

    rows = [row(name, scores, "single", None) for name, scores in singles.items()]
    with stage("merging and measuring"):
        states = {
            name: Weights.read(path)
            for name, path in (
                ("base", base),
                ("peer", peer),
                ("open", owner),
                ("locked", lock.locked),
            )
        }
        for name, path in (("unlocked", lock.unlocked), ("aligned", aligned)):
            states[name] = Weights.read(path)
            if states[name].digest == states["open"].digest:  # one copy in memory is enough
                states[name] = states["open"]
        for method in METHODS:
            for state in STATES:
                console.print(f"  {method.title}, {state}", style="dim", highlight=False)
                scores = _merge(method, states, state, scorer, base)
                rows.append(row(f"{method.title}, {state}", scores, state, method))
    seconds["total"] = sum(seconds.values())
    difference = lock.check.outputs.relative
    tau = states["open"].distance(states["base"])
    return {
        "model": {"name": NAME, "weights": states["base"].digest},
        "tasks": [
            {"name": t.name, "title": t.title, "source": t.source, "hash": t.content_hash}
            for t in tasks
        ],
        "rows": rows,
        "lock": {
            "same": lock.check.same,
            "difference": difference if math.isfinite(difference) else None,
            "unlocked_identical": states["unlocked"] is states["open"],
        },
        "attack": {
            "seconds": round(attack.seconds, 1),
            "residual": states["aligned"].distance(states["open"]) / tau,
        },
        "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
        "measured": scorer.measured,
        "software": {name: version(name) for name in ("torch", "transformers", "mergekit")},
    }


def _quiet() -> None:
    """Silence progress bars and warnings of transformers that would cut through ours."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # the GGUF reader's bar heeds nothing else
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Locked:
    """The locked expert, what `verify` says of it, and the expert that its key gives back."""

    locked: Path
    unlocked: Path
    check: VerifyReport


def _lock(owner: Path, folder: Path) -> Locked:
    """Lock the expert with the key in `folder` (made on first use), verify, and unlock again."""
    import unmergeable

    folder.mkdir(parents=True, exist_ok=True)
    key, locked, unlocked = folder / "owner.key", folder / "locked", folder / "unlocked"
    if not key.exists():
        unmergeable.keygen(key)
    for old in (locked, unlocked):
        shutil.rmtree(old, ignore_errors=True)
    unmergeable.protect(owner, locked, key=key)
    check = unmergeable.verify(owner, locked, key=key)
    unmergeable.unlock(locked, unlocked, key=key)
    return Locked(locked, unlocked, check)


def _attack(locked: Path, base: Path, folder: Path) -> tuple[Path, AlignReport]:
    """Bring the locked expert back to the base's coordinates, as a thief would: without the key."""
    import unmergeable

    aligned = folder / "aligned"
    shutil.rmtree(aligned, ignore_errors=True)
    return aligned, unmergeable.align(locked, aligned, base)


def _merge(
    method: Method, states: dict[str, Weights], state: str, scorer: Scorer, like: Path
) -> list[Score]:
    """Score one merge of the owner's expert, in the named state, with the peer's."""
    about = {
        "method": method.name,
        "parameters": method.parameters,
        "base": states["base"].digest if method.based else None,
        "models": [states[state].digest, states["peer"].digest],
        "mergekit": version("mergekit"),
    }

    def merge() -> Any:
        from unmergeable.merging.mergekit_bridge import merge_state_dicts

        return merge_state_dicts(
            [states[state].tensors, states["peer"].tensors],
            method.name,
            base=states["base"].tensors if method.based else None,
            parameters=method.parameters,
            seed=0,
        )

    return scorer.merged(about, like, merge)


def _cell(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {
        "accuracy": score.accuracy,
        "low": low,
        "high": high,
        "correct": score.correct,
        "total": score.total,
    }
