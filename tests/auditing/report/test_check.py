import copy
import json
import math

import pytest

from tests.auditing.report.synthetic import DOCUMENTS
from unmergeable.auditing.report import SCHEMA, check
from unmergeable.errors import InputError


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_that_follow_the_schema_pass_as_they_are(make):
    document = make()
    assert document["schema"] == SCHEMA
    assert check(document) is document
    check(json.loads(json.dumps(document, allow_nan=False)))


def test_further_keys_are_passed_over():
    document = DOCUMENTS["full"]()
    document["more"] = document["verdict"]["more"] = object()
    check(document)


def put(value, *path):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def repeat(name):
    return lambda document: document[name].append(document[name][0])


WRONG = {
    "a scenario without rows": (
        put([{"name": "stealer"}], "scenarios"),
        r"lacks scenarios\[0\]\.title",
    ),
    "null scenarios": (put(None, "scenarios"), "scenarios is None: it must be a list"),
    "another schema": (
        put("unmergeable.audit/9", "schema"),
        r"schema is 'unmergeable.audit/9'",
    ),
    "no schema": (drop("schema"), "schema is None: this version reads 'unmergeable.audit/2'"),
    "a part is missing": (drop("verdict"), "lacks verdict: add it"),
    "a field is missing": (drop("cells", 3, "tried"), r"lacks cells\[3\]\.tried"),
    "text for a number": (
        put("0.9", "cells", 0, "value", "value"),
        r"cells\[0\]\.value\.value is '0\.9': it must be a finite number",
    ),
    "not a number": (put(math.nan, "verdict", "theft", "low"), r"theft\.low is nan"),
    "not finite": (put(math.inf, "line", "curves", 0, "losses", "kinds", 2), r"kinds\[2\] is inf"),
    "true for a number": (put(True, "verdict", "theft", "low"), r"theft\.low is True"),
    "true for a count": (put(True, "provenance", "seed"), "seed is True: it must be a whole"),
    "a fraction for a count": (put(1.5, "cells", 0, "tried"), r"tried is 1\.5: .* whole number"),
    "null where nothing may lack": (put(None, "verdict", "sentence"), "sentence is None"),
    "a number for a truth": (put(1, "controls", 0, "passed"), "passed is 1: .* true or false"),
    "an unknown status": (
        put("lost", "cells", 1, "status"),
        r"cells\[1\]\.status is 'lost': it must be one of 'measured', 'failed', 'skipped'",
    ),
    "an unknown level": (put(4, "verdict", "level"), "level is 4: it must be one of 0, 1, 2, 3"),
    "an unknown answer": (
        put("maybe", "verdict", "answer"),
        "answer is 'maybe': it must be one of",
    ),
    "an answer that contradicts itself": (
        put("holds", "verdict", "answer"),
        "verdict.broken is True and its answer 'holds': make them agree",
    ),
    "an object for a list": (put({}, "tasks"), r"tasks is \{\}: it must be a list"),
    "a list for an object": (put([], "subject"), r"subject is \[\]: it must be an object"),
    "an unknown attack": (
        put("magic", "cells", 0, "attack"),
        r"cells\[0\]\.attack is 'magic', which its attacks do not list: they list align",
    ),
    "an unknown method": (put("magic", "verdict", "method"), r"verdict\.method is 'magic'"),
    "an unknown task": (put(0.5, "cells", 0, "shares", "magic"), r"cells\[0\]'s task is 'magic'"),
    "an unknown attack's price": (
        put("magic", "price_curve", "attacks", 2, "attack"),
        r"price_curve\.attacks\[2\]\.attack is 'magic'",
    ),
    "a task twice": (repeat("tasks"), "tasks hold 'kinds' twice: keep one"),
    "a short curve": (
        drop("line", "curves", 1, "losses", "spam", 0),
        "line, protected, losses, spam has 10 values for 11 places",
    ),
    "a long curve": (
        lambda document: document["displacement"]["curves"][0]["values"].append(1.0),
        "displacement, open has 33 values for 32 places",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_the_first_thing_wrong_is_named_with_its_value(change, sentence):
    document = copy.deepcopy(DOCUMENTS["full"]())
    change(document)
    with pytest.raises(InputError, match=sentence):
        check(document)


def test_what_is_no_document_is_refused():
    with pytest.raises(InputError, match=r"the report is \[\]: it must be an object"):
        check([])
