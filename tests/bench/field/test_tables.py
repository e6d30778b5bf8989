from types import SimpleNamespace

import pytest

from unmergeable.bench.field import tables
from unmergeable.bench.field.defences import chosen_defences


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (("arf-lock", "arf"), {"ARF alone ‡"}),
        (("arf-lock",), {"ARF + lock ‡"}),
        (("lock", "lock-general"), {"lock"}),
        (("params-mergelock",), set()),
    ],
)
def test_claims_stand_beside_the_defence_alone_or_its_main_row(rows, names):
    results = SimpleNamespace(
        defences=chosen_defences(rows),
        best=lambda *where: None,
        lost=lambda row: None,
        cell=lambda *where: None,
        data_free=("align", "aga"),
    )
    lines = tables.claims(results).splitlines()[2:]
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines} == names
