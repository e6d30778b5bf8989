import re

import pytest

from tests.auditing.page.elements import Page
from tests.auditing.report.synthetic import DOCUMENTS, EVIL, RUNS, price
from unmergeable.auditing.report import render_html
from unmergeable.auditing.report.queries import Reading
from unmergeable.errors import InputError, MissingExtraError

SECTIONS = "verdict controls figures price line displacement claims flags not-run tasks provenance"


@pytest.fixture(params=DOCUMENTS.values(), ids=DOCUMENTS)
def document(request):
    return request.param()


def flat(text):
    return " ".join(text.split())


def test_every_section_is_there_and_says_something(document):
    page = Page(render_html(document))
    sections = page.all("section")
    played = "scenarios flags" if "scenarios" in document else "flags"
    expected = SECTIONS.replace("flags", played).split()
    assert [section["attributes"]["id"] for section in sections] == expected
    assert all(len(flat(section["text"])) > 12 for section in sections)
    assert flat(document["verdict"]["sentence"]) == flat(page.one("h1")["text"])


def test_nothing_is_fetched_and_no_name_becomes_mark_up(document):
    text = render_html(document)
    page = Page(text)
    for element in page.elements:
        assert not element["attributes"].keys() & {"src", "href", "srcset", "data", "action"}
        assert not any(name.startswith("on") for name in element["attributes"])
    assert not re.search(r"url\(|@import|https?://", text)
    page.one("script")
    page.one("style")
    assert "49" not in page.one("title")["text"]


def test_names_are_shown_as_they_are():
    page = Page(render_html(DOCUMENTS["evil"]()))
    assert page.one("h1")["text"] == EVIL
    assert page.one("title")["text"] == f"Merge audit of {EVIL}"
    assert EVIL in page.one("table", id="heat")["text"]
    # ... in the figures' texts, too
    assert any(EVIL in figure["attributes"]["aria-label"] for figure in page.all("svg", role="img"))


def test_tables_and_figures_can_be_read_aloud(document):
    page = Page(render_html(document))
    assert all(head["attributes"].get("scope") for head in page.all("th"))
    for figure in page.all("svg"):
        attributes = figure["attributes"]
        assert attributes.get("aria-hidden") == "true" or len(attributes["aria-label"]) > 20
    assert page.one("html")["attributes"]["lang"] == "en"
    for scroll in page.classes("div", "scroll"):
        assert {"tabindex", "role"} <= scroll["attributes"].keys()


@pytest.mark.parametrize("name", ["full", "broken", "crowded"])
def test_the_heat_map_holds_every_figure_of_the_document(name):
    document = DOCUMENTS[name]()
    page = Page(render_html(document))
    shown = [c for c in page.all("td") if "title" in c["attributes"]]
    width = sum(int(head["attributes"]["colspan"]) for head in page.classes("th", "group"))
    pairs = [("open", "none"), ("protected", "none")]
    pairs += [("protected", attack["name"]) for attack in document["attacks"][1:]]
    assert width == len(pairs)
    cells = {(c["subject"], c["attack"], c["method"]): c for c in document["cells"]}
    rows = [shown[i : i + width] for i in range(0, len(shown), width)]
    assert len(rows) == 1 + len(document["methods"])
    for method, row in zip(document["methods"], rows[1:], strict=True):
        for pair, found in zip(pairs, row, strict=True):
            cell = cells[(*pair, method["name"])]
            if cell["status"] != "measured":
                assert found["text"] == cell["status"]
                assert cell["reason"] in found["attributes"]["title"]
                continue
            value = cell["value"]["value"]
            assert found["text"] == f"{value:.2f}"
            assert found["attributes"]["style"] == f"--v:{round(min(value, 1.0), 3)}"
            for figure in (cell["value"]["low"], cell["value"]["high"], cell["theft"]["value"]):
                assert f"{figure:.2f}" in found["attributes"]["title"]
    named = ("protected", document["verdict"]["attack"], document["verdict"]["method"])
    for index, found in enumerate(rows[0]):  # the row of the best
        best = max(float(row[index]["text"]) for row in rows[1:] if row[index]["text"][0] in "01")
        if pairs[index] == named[:2]:
            best = cells[named]["value"]["value"]
        assert found["text"] == f"{best:.2f}"


def test_the_key_figures_are_the_documents():
    document = DOCUMENTS["full"]()
    keys = [flat(p["text"]) for p in Page(render_html(document)).classes("p", "figure")]
    assert keys == ["0.73", "2 of 3", "V 0.97", "V 0.02", "V 0.71", "25 min"]


def test_prices_and_ceilings_are_the_documents():
    document = DOCUMENTS["full"]()
    text = flat(Page(render_html(document)).one("section", id="price")["text"])
    for attack in document["attacks"]:
        found = [c for c in document["price_curve"]["attacks"] if c["attack"] == attack["name"]]
        best = max(c["theft"]["value"] for c in found)
        assert f"{best:.2f} (" in text and attack["title"] in text
    assert "118 s, 256 unlabelled, 4.0 × 10¹³ FLOPs" in text
    for ceiling in document["price_curve"]["ceilings"]:
        for point in ceiling["points"]:
            assert f"{point['theft']['value']:.2f} (" in text


def test_an_attack_at_several_prices_is_one_cell_and_many_points():
    document = DOCUMENTS["priced"]()
    page = Page(render_html(document))
    row = [c for c in page.all("td") if "at one of 4 prices" in c["attributes"].get("title", "")]
    assert {cell["text"] for cell in row} == {"0.71"}  # in its place and in the row of the best
    text = flat(page.one("section", id="price")["text"])
    for spent, reached in RUNS.items():
        assert f"{reached / 0.97:.2f} (" in text and f"{int(spent)} labelled" in text
    document["verdict"]["price"] = document["cells"][-1]["price"]  # ... of no such run
    assert "V 0.71" in flat(Page(render_html(document)).one("ul", **{"class": "keys"})["text"])
    document["verdict"]["price"] = price(300.0, labelled=300)
    page = Page(render_html(document))
    assert "V 0.52" in flat(page.one("ul", **{"class": "keys"})["text"])
    # The map, the row of the best and the price curve name it, too.
    row = [c for c in page.all("td") if "at one of 4 prices" in c["attributes"].get("title", "")]
    assert {cell["text"] for cell in row} == {"0.52"}


def test_a_run_that_the_verdict_names_is_on_the_price_curve_however_near_a_better_one():
    document = DOCUMENTS["priced"]()
    (run,) = (t for t in document["price_curve"]["attacks"] if t["price"]["seconds"] == 900.0)
    run["price"]["seconds"] = 1400.0
    told = Reading(document).thefts()
    assert run not in told
    document["verdict"]["price"] = run["price"]
    assert [t for t in Reading(document).thefts() if t not in told] == [run]


STATUS = {
    "broken": ("broken", "Protection broken"),
    "holds": ("held", "Holds, by what was run"),
    "undecided": ("unsure", "Undecided"),
}


@pytest.mark.parametrize("answer", STATUS)
def test_each_answer_has_its_colour_and_its_word(answer):
    document = DOCUMENTS["full"]()
    reasons = {"reasons": ["a <reason>"], "needs": ["a need"] if answer == "undecided" else []}
    document["verdict"] |= {"answer": answer, "broken": answer == "broken", **reasons}
    section = Page(render_html(document)).one("section", id="verdict")
    tone, word = STATUS[answer]
    assert tone in section["attributes"]["class"].split() and word in section["text"]
    assert ("a <reason>" in section["text"]) is (answer != "broken")
    assert ("What would decide it" in section["text"]) is (answer == "undecided")


def test_a_control_that_failed_is_counted():
    document = DOCUMENTS["full"]()
    document["controls"][1]["passed"] = False
    assert "1 control failed" in Page(render_html(document)).one("section", id="controls")["text"]


def test_a_wrong_document_is_refused():
    with pytest.raises(InputError, match="schema"):
        render_html({})


def test_a_missing_jinja_is_named(monkeypatch):
    def gone(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("unmergeable.extras.import_module", gone)
    with pytest.raises(MissingExtraError, match=r"needs jinja2.*unmergeable\[audit\]"):
        render_html(DOCUMENTS["full"]())


def test_a_scenario_has_its_rows_and_controls():
    page = Page(render_html(DOCUMENTS["played"]()))
    text = flat(page.one("section", id="scenarios")["text"])
    assert "What was planted, merged and asked, in a sentence." in text
    assert "open victim, SLERP62.0% (58.5% to 64.5%)" in text
    assert "✕ failed The victim refuses 4.0% of 400" in text and "It took 5.3 min." in text
    assert "✓ passed The victim knows" not in flat(page.one("section", id="controls")["text"])
