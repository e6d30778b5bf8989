"""Cells of a suite that was never run, with drawn answers: for figures, words and pages."""

from dataclasses import asdict
from functools import cache
from hashlib import sha256

import numpy as np

from unmergeable.bench.field.defences import chosen_defences
from unmergeable.bench.field.kept import Kept
from unmergeable.bench.field.results import Results

PAIR, CROWD = ("moss", "stones"), ("moss", "stones", "ferns", "fungi")
ROWS = ("none", "lock", "params", "mergebarrier", "trap2", "arf-lock", "private-low", "retrained")
BASE, EXPERT, ITEMS = 0.3, 0.8, 400
METHODS = ("task_arithmetic", "ties", "emr")
DATA = {"pull_back": (0, 500), "fine_tune": (1600, 0)}
DATA |= {"distil_release": (0, 500), "fine_tune_release": (2000, 0)}
OPEN = {"none": 0.9}


def marks(accuracy, seed=0, items=ITEMS):
    """Answers of which just that share is right; of one seed, nested in each other."""
    order = np.random.default_rng(seed).permutation(items)
    right = order < round(accuracy * items)
    return "".join("1" if one else "0" for one in right)


def answers(value, names=PAIR, **more):
    """A cell whose merge has that share of what every expert gained."""
    accuracy = BASE + value * (EXPERT - BASE)
    return {"marks": {name: marks(accuracy, n, **more) for n, name in enumerate(names)}}


def cell(where, **content):
    return {
        "key": sha256(where.encode()).hexdigest()[:16],
        "inputs": {},
        "busy": 0.5,
        "took": {"wall": 2.0, "cpu": 1.5},
        "software": {"torch": "2", "unmergeable": "abc"},
        "machine": "x86_64, 2 processors",
        "reason": "",
        "label": {"weights": "0.5 : 0.5"},
        "tried": 8,
        "price": {"seconds": 0.0, "labelled": 0, "unlabelled": 0, "flops": None},
        "seconds": 1.0,
        "marks": {},
        **content,
    }


def controls(names):
    low = {name: marks(BASE, n) for n, name in enumerate(names)}
    high = {name: marks(EXPERT, n) for n, name in enumerate(names)}
    singles = {"base": low}
    for at, name in enumerate(names):
        singles["original" if at == 0 else f"peer {at}"] = {**low, name: high[name]}
    passed = {"name": "experts", "title": "experts learned", "passed": True, "figure": "yes"}
    return {"singles": singles, "controls": [passed]}


def reached(row, attack, seed):
    """A share of the open merge's, by row and attack."""
    stopped = {"lock": 0.05, "arf-lock": 0.02, "private-low": 0.0, "params": 0.44}
    if attack == "none":
        return stopped.get(row, 0.85 - 0.1 * seed)
    if row == "private-low":
        return {"align": 0.0, "aga": 0.1, "pull_back": 0.3, "fine_tune": 0.45}.get(attack, 0.9)
    return 0.88 - 0.05 * (row == "arf-lock") - 0.04 * seed * (row == "trap2")


def made_up(worth=reached, rows=ROWS, suite="moss", quick=False, title="a made-up base"):
    """A suite's cells, some of which are missing, failed or refused."""
    known = chosen_defences(rows)
    cells = {}
    for group, names in (("pair", PAIR), ("crowd", CROWD)):
        where = f"{group}/none/0/controls/"
        cells[where] = cell(where, **controls(names))
    defended = {}
    for row in known:
        for seed in range(3 if row.trained else 1):
            about = {"artefact": f"moss-{row.name}-{seed}", "size": 1000, "busy": 0.5}
            about |= {"seconds": 3.0 + 90 * bool(row.trained), "refused": ""}
            defended[f"{row.name}/{seed}"] = about
            for where, content in _row(row, seed, worth):
                cells[where] = content and cell(where, **content)
    index = {
        "code": 1,
        "suite": suite,
        "title": title,
        "quick": quick,
        "base": "b" * 64,
        "groups": {"pair": list(PAIR), "crowd": list(CROWD)},
        "tasks": {name: _task(name) for name in CROWD},
        "open_size": 1000,
        "defended": defended,
        "attacks": {},
        "rows": {row.name: asdict(row) for row in known},
    }
    return Kept(index, cells)


@cache
def results(*arguments, **more):
    """What the page is worked out from; the same object for the same cells."""
    return Results(made_up(*arguments, **more))


def _row(row, seed, worth):
    at = f"pair/{row.name}/{seed}"
    yield f"{at}/alone/", {"marks": {"moss": marks(EXPERT - 0.01), "stones": marks(BASE, 1)}}
    for attack in ("none", "align", "aga", "pull_back", "fine_tune"):
        for number, method in enumerate(METHODS):
            where = f"{at}/{attack}/{method}"
            if row.name == "mergebarrier" and attack == "none":
                yield where, {"reason": "the architecture is another"}
                continue
            if seed and attack in DATA:
                continue
            if method == "emr" and attack == "fine_tune":
                yield where, {"reason": "it keeps weights per task"}
                continue
            value = OPEN.get(attack, 0.9) if row.name == "none" else worth(row.name, attack, seed)
            yield where, {**answers(max(0.0, value - 0.03 * number)), "price": _price(attack)}
    if not seed:
        for attack in ("distil_release", "fine_tune_release"):
            points = [
                {"price": {**_price(attack), "seconds": seconds}, "value": value}
                for seconds, value in ((4.0, 0.4), (12.0, 0.7), (35.0, 0.95))
            ]
            content = {**answers(0.95), "price": _price(attack), "points": points}
            yield f"{at}/{attack}/", content
        if row.main:
            for attack in ("none", "align"):
                value = 0.6 if attack == "align" or row.name == "none" else 0.0
                for method in ("task_arithmetic", "tsv"):
                    yield f"crowd/{row.name}/0/{attack}/{method}", answers(value, CROWD)
            yield f"crowd/{row.name}/0/aga/task_arithmetic", None


def _price(attack):
    labelled, unlabelled = DATA.get(attack, (0, 0))
    seconds = {"none": 0.0, "align": 1.4, "aga": 0.3, "pull_back": 3.0}.get(attack, 35.0)
    return {"seconds": seconds, "labelled": labelled, "unlabelled": unlabelled, "flops": 1e12}


def _task(name):
    return {
        "title": f"kinds of {name}",
        "source": "made up",
        "hash": "d" * 64,
        "items": {"train": 900, "validation": 64, "test": ITEMS},
        "note": "",
        "expert": "e" * 64,
        "folder": f"expert-{name}",
    }
