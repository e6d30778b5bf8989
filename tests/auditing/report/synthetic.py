"""Documents as the audit writes them, with invented figures: nothing here was measured."""

import copy

LONG = "an invented task whose title goes on and on, far past what any table's column will hold"
EVIL = "<script>alert('\"x\"')</script> & | `b` *c* {{ 7 * 7 }}"


def price(seconds, labelled=0, unlabelled=0, flops=None):
    return {"seconds": seconds, "labelled": labelled, "unlabelled": unlabelled, "flops": flops}


def estimate(value, width=0.04):
    return {"value": value, "low": max(0.0, value - width), "high": value + width}


def score(accuracy):
    return {
        "accuracy": accuracy,
        "low": accuracy - 0.035,
        "high": min(1.0, accuracy + 0.025),
        "total": 400,
    }


def model(name, defence=None):
    return {
        "name": name,
        "digest": "0123456789abcdef" * 4,
        "parameters": 134515008,
        "family": "llama",
        "defence": defence,
    }


def task(name, title, of):
    return {
        "name": name,
        "title": title,
        "of": of,
        "kind": "choice of words",
        "items": {"test": 400, "validation": 200},
        "hash": "fedcba9876543210" * 4,
        "scores": {"base": score(0.528), "expert": score(0.91), "protected": score(0.912)},
    }


ATTACKS = [
    ("none", "no attack", "none", price(0.0)),
    ("align", "Alignment to the base", "align", price(13.2, flops=2.1e12)),
    ("norms", "Norm matching", "data-free", price(41.0, flops=5e12)),
    ("subspace", "Subspace projection", "data-free", price(66.0, flops=8e12)),
    ("repair", "Closed-form repair", "text", price(118.0, unlabelled=256, flops=4e13)),
    ("distil", "Layer-wise distillation", "text", price(640.0, unlabelled=2000, flops=9e14)),
    ("tune", "Align, then tune", "labels", price(1510.0, labelled=500, flops=3e15)),
]
METHODS = [
    ("linear", "Linear", "mergekit"),
    ("task-arithmetic", "Task arithmetic", "mergekit"),
    ("ties", "TIES", "mergekit"),
    ("dare-ties", "DARE TIES", "mergekit"),
    ("slerp", "SLERP", "mergekit"),
    ("wudi", "WUDI", "unmergeable"),
    ("mine", "A plug-in's method", "plugin"),
]
WHERE = ("tune", "linear")
REACHED = {"none": 0.02, "align": 0.21, "norms": 0.11, "subspace": 0.26}
REACHED |= {"repair": 0.47, "distil": 0.58, "tune": 0.71}


def cell(subject, attack, method, value, spent=1.0):
    return {
        "subject": subject,
        "attack": attack,
        "method": method,
        "status": "measured",
        "reason": None,
        "coefficients": {"weight": [0.5, 0.7], "density": 0.5},
        "tried": 9,
        "value": estimate(value),
        "shares": {"kinds": value, "spam": min(1.0, value + 0.06)},
        "scores": {"kinds": score(0.5 + value / 3), "spam": score(0.5 + value / 4)},
        "theft": estimate(round(value / 0.97, 4), 0.06),
        "price": price(spent),
        "finite": True,
        "seconds": 12.5,
    }


def unmeasured(found, status, reason):
    return found | {
        "status": status,
        "reason": reason,
        "coefficients": None,
        "tried": 0,
        "value": None,
        "shares": None,
        "scores": None,
        "theft": None,
        "price": None,
    }


def full():
    """Everything there is, once."""
    cells, curve = [], []
    for order, (method, _, _) in enumerate(METHODS):
        cells.append(cell("open", "none", method, round(0.97 - 0.03 * order, 3)))
        for attack, _, _, cost in ATTACKS:
            value = round(REACHED[attack] * (1 - 0.09 * order), 4)
            found = cell("protected", attack, method, value) | {"price": dict(cost)}
            if (attack, method) == ("norms", "wudi"):
                found = unmeasured(found, "failed", "the solver did not converge after 500 steps")
            elif method == "mine" and attack in ("distil", "tune"):
                found = unmeasured(found, "skipped", "the plug-in needs an accelerator")
            cells.append(found)
            if found["theft"]:
                parts = {"attack": attack, "method": method}
                curve.append(parts | {"price": dict(cost), "theft": found["theft"]})
    at = [round(i / 10, 1) for i in range(11)]
    return {
        "schema": "unmergeable.audit/2",
        "verdict": {
            "sentence": "Broken with data: Align, then tune costs 25 minutes and 500 labelled "
            "items, less than what open weights always allow, and Linear reaches V = 0.71, 73% "
            "(67% to 79%) of what the best merge of the unprotected expert is worth; an unmodified "
            "merge tool gets V = 0.02.",
            "answer": "broken",
            "broken": True,
            "reasons": ["Linear reaches V = 0.71"],
            "needs": [],
            "level": 2,
            "value": estimate(0.71),
            "theft": estimate(0.732, 0.06),
            "attack": "tune",
            "method": "linear",
            "price": price(1510.0, labelled=500, flops=3e15),
        },
        "subject": {
            "protected": model("invented-135m-glosses-protected", "barrier over a lock"),
            "base": model("invented-135m"),
            "original": model("invented-135m-glosses"),
            "peers": [model("invented-135m-spam")],
        },
        "tasks": [
            task("kinds", "kind of noun", "protected"),
            task("spam", "spam or not, from a subject", "peer 1"),
        ],
        "controls": [
            control("open", "The open expert merges well with the same tools", "V = 0.97"),
            control("alone", "The protected model alone matches the expert", "91.2 % and 91.0 %"),
            control("unlocked", "The unlocked model merges well again", "V = 0.97"),
            control("lock", "Alignment of a bare lock succeeds", "theft = 1.00"),
        ],
        "methods": [
            {
                "name": name,
                "title": title,
                "source": source,
                "paper": "An invented paper (2025)",
                "note": "an invented note",
                "routed": False,
            }
            for name, title, source in METHODS
        ],
        "attacks": [
            {
                "name": name,
                "title": title,
                "what": f"What {title} does, in a sentence.",
                "stage": stage,
                "price": cost,
            }
            for name, title, stage, cost in ATTACKS
        ],
        "cells": cells,
        "line": {
            "at": at,
            "curves": [
                line("open", "open model", at, 0.4, 0.1),
                line("protected", "protected model", at, 9.0, 2.0),
                line("aligned", "protected, after alignment", at, 2.6, 0.6),
            ],
        },
        "price_curve": {
            "attacks": curve,
            "ceilings": [
                ceiling("distil", "distilling the release", 1.0, labelled=0),
                ceiling("tune", "fine-tuning the release on the peer's data", 0.5, labelled=300),
            ],
        },
        "displacement": {
            "layers": ["embeddings", *map(str, range(30)), "final norm"],
            "curves": [
                {"name": "open", "values": [0.004 + 0.0004 * i for i in range(32)]},
                {"name": "protected", "values": [1.3 + 0.01 * (i % 5) for i in range(32)]},
                {"name": "aligned", "values": [0.02 + 0.002 * (i % 7) for i in range(32)]},
            ],
        },
        "distances": {
            "of": {"original": 0.02, "peer 1": 0.03, "aligned model": 0.41},
            "far": {"aligned model": "the aligned model is 41% of the base's norm away"},
        },
        "claims": [
            {
                "defence": "an invented defence",
                "source": "An invented paper, table 3",
                "claim": "the merged model's accuracy on the owner's task",
                "claimed": "falls to chance",
                "measured": "0.71 of the open merge after alignment and tuning",
            }
        ],
        "flags": [
            {
                "name": "coefficients outside the usual range help",
                "severity": "amber",
                "what": "The best merge uses a weight of 1.8; training covered 0 to 1.",
            },
            {
                "name": "few test items",
                "severity": "red",
                "what": "Intervals are wider than 0.1.",
            },
        ],
        "not_run": [
            {
                "what": "Evolutionary search of coefficients",
                "why": "not in the preset standard",
                "need": "",
            },
            {
                "what": "Attacks with more than 2,000 texts",
                "why": "no more texts were given",
                "need": "give more texts",
            },
        ],
        "provenance": {
            "command": "unmergeable audit protected --base base --original expert --peer peer "
            "--tasks tasks.json --out audit",
            "seed": 7,
            "versions": {"unmergeable": "0.0", "torch": "0.0", "mergekit": "0.0"},
            "machine": {
                "processor": "an invented processor",
                "cores": 2,
                "memory_gb": 8.0,
                "accelerator": None,
            },
            "started": "2000-01-01T00:00:00+00:00",
            "seconds": 5321.0,
            "preset": "standard",
            "evaluations": 612,
            "looked_up": 88,
            "hashes": {"tasks.json": "abcdef0123456789" * 4},
        },
    }


def control(name, title, figure, passed=True):
    return {"name": name, "title": title, "passed": passed, "figure": figure}


def line(name, title, at, hill, floor):
    def along(sign):
        return [round(floor + hill * 4 * t * (1 - t) + sign * 0.5 * (t - 0.5), 4) for t in at]

    losses = {"kinds": [max(0.02, v) for v in along(-1)], "spam": [max(0.02, v) for v in along(1)]}
    accuracies = {key: [round(1 / (1 + v), 4) for v in found] for key, found in losses.items()}
    return {"name": name, "title": title, "losses": losses, "accuracies": accuracies}


def ceiling(name, title, share, labelled):
    points = [
        (60.0 * 5**i, min(0.99, share * (0.22 + 0.27 * i)), labelled * (i + 1), 500 * 4**i)
        for i in range(4)
    ]
    return {
        "name": name,
        "title": title,
        "points": [
            {
                "price": price(spent, labelled=labels, unlabelled=0 if labels else texts),
                "theft": estimate(round(reached, 3), 0.05),
            }
            for spent, reached, labels, texts in points
        ],
    }


def minimal():
    """As little as the schema allows."""
    found = full()
    found["verdict"] |= dict.fromkeys(("level", "value", "theft", "attack", "method", "price"))
    found["verdict"] |= undecided("Nothing was measured.")
    found["distances"] = {"of": {}, "far": {}}
    for name in ("controls", "methods", "attacks", "cells", "claims", "flags", "not_run"):
        found[name] = []
    found["tasks"] = found["tasks"][:1]
    found |= {"line": None, "displacement": None}
    found["price_curve"] = {"attacks": [], "ceilings": []}
    return found


def undecided(sentence):
    return {
        "sentence": sentence,
        "answer": "undecided",
        "broken": False,
        "reasons": ["pull-back did not run", "the control 'tasks differ' was not run"],
        "needs": ["give texts: in-domain", "run the control 'tasks differ'"],
    }


def broken():
    """The lock as it is: one attack, no ceilings, one task, no line."""
    found = full()
    found["attacks"] = found["attacks"][:2]
    found["methods"] = found["methods"][:3]
    kept = {"none", "align"}, {"linear", "task-arithmetic", "ties"}
    found["cells"] = [
        c for c in found["cells"] if c["attack"] in kept[0] and c["method"] in kept[1]
    ]
    for c in found["cells"]:
        c["shares"].pop("kinds")
        c["scores"].pop("kinds")
        if c["attack"] == "align":
            c |= {"value": estimate(0.97), "theft": estimate(1.0)}
    found["price_curve"] = {
        "attacks": [
            {name: c[name] for name in ("attack", "method", "price", "theft")}
            for c in found["cells"]
            if c["subject"] == "protected"
        ],
        "ceilings": [],
    }
    found["verdict"] |= {
        "sentence": "Anyone can undo this lock in 13 seconds, without data.",
        "broken": True,
        "level": 1,
        "theft": estimate(1.0),
        "attack": "align",
        "method": "linear",
        "price": price(13.2, flops=2.1e12),
    }
    found["tasks"] = found["tasks"][1:]
    found["line"] = None
    found["controls"][2]["passed"] = False
    return found


def crowded():
    """36 methods and 12 attacks, all with long titles."""
    found = full()
    attacks, methods = found["attacks"], found["methods"]
    found["attacks"] = [*attacks]
    for i in range(6):
        extra = copy.deepcopy(attacks[4])
        extra |= {"name": f"more-{i}", "title": f"An invented further attack with a name, {i}"}
        extra["price"] = price(30.0 * 2.7**i, unlabelled=10**i)
        found["attacks"].append(extra)
    found["methods"] = [
        methods[0] | {"name": f"m{i}", "title": f"An invented merge method with a long name {i}"}
        for i in range(36)
    ]
    found["tasks"][0]["title"] = LONG
    found["cells"] = [
        cell(subject, attack["name"], f"m{i}", round((i * 7 + len(attack["name"])) % 37 / 37, 3))
        for i in range(36)
        for subject in ("open", "protected")
        for attack in found["attacks"]
        if subject == "protected" or attack["name"] == "none"
    ]
    found["price_curve"]["attacks"] = [
        {
            "attack": attack["name"],
            "method": f"m{i}",
            "price": attack["price"],
            "theft": estimate(round(0.05 * order + i / 90, 3)),
        }
        for order, attack in enumerate(found["attacks"])
        for i in range(36)
    ]
    found["verdict"] |= {"attack": "tune", "method": "m4"}
    return found


RUNS = {90.0: 0.35, 300.0: 0.52, 900.0: 0.66}


def priced():
    """One attack at several prices: as many cells in one place, as many entries on the curve."""
    found = full()
    places = [i for i, c in enumerate(found["cells"]) if (c["attack"], c["method"]) == WHERE]
    for spent, reached in RUNS.items():
        run = cell("protected", *WHERE, reached, spent)
        run["price"] = price(spent, labelled=int(spent))
        found["cells"].insert(places[0], run)
        parts = {name: run[name] for name in ("attack", "method", "price", "theft")}
        found["price_curve"]["attacks"].append(parts)
    return found


def played():
    """With a scenario beside the matrix."""
    found = full()
    found["scenarios"] = [
        {
            "name": "stealer",
            "title": "An invented scenario",
            "what": "What was planted, merged and asked, in a sentence.",
            "rows": [
                {"name": "the victim alone", "exact_match": score(0.04)},
                {"name": "open victim, SLERP", "exact_match": score(0.62)},
            ],
            "controls": [
                control("knows", "The victim knows", "100.0% of 400"),
                control("refuses", "The victim refuses", "4.0% of 400", passed=False),
            ],
            "seconds": 321.0,
        }
    ]
    return found


def nulls():
    """Everything that may be null is."""
    found = full()
    found["verdict"] |= dict.fromkeys(("level", "value", "theft", "attack", "method", "price"))
    found["verdict"] |= undecided("Undecided.")
    found["distances"]["of"] = dict.fromkeys(found["distances"]["of"])
    found["subject"]["peers"] = []
    found["cells"] = [
        unmeasured(c, "measured" if i % 2 else "failed", None) for i, c in enumerate(found["cells"])
    ]
    for part in found["price_curve"]["attacks"]:
        part["theft"] = None
        part["method"] = None
    for curve in found["line"]["curves"]:
        curve["losses"]["kinds"][3] = None
        curve["accuracies"].pop("spam")
    found["displacement"]["curves"][2]["values"][:3] = [0.0, None, 0.0]
    found["provenance"]["machine"] = dict.fromkeys(found["provenance"]["machine"])
    return found


def evil():
    """Every free text tries to be mark-up."""
    found = played()

    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        kept = (
            "schema",
            "name",
            "attack",
            "method",
            "subject",
            "status",
            "stage",
            "severity",
            "answer",
        )
        return EVIL if isinstance(value, str) and key not in kept else value

    spoilt = spoil(found)
    for who in ("protected", "base", "original"):
        spoilt["subject"][who]["name"] = EVIL
    return spoilt


DOCUMENTS = {
    made.__name__: made for made in (full, minimal, broken, crowded, priced, played, nulls, evil)
}
