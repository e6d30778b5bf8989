"""The page to read: what it holds, that every figure names its cell, and how it works."""

import re

import pytest

from tests.auditing.page.elements import Page
from tests.bench.field.made_up import made_up
from tests.browser import WIDTHS, fits, opened, press, quiet, set_screen
from unmergeable.bench.field import kept, page
from unmergeable.bench.field.results import Results

EVIL = '<b title="x">&amp;{{ 7*7 }}</b>'
RUNS = {
    "moss": made_up(),
    "fern": made_up(rows=("none", "lock"), suite="fern", title=EVIL),
    "moss-quick": made_up(rows=("none", "lock"), quick=True),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    for name, run in RUNS.items():
        kept.merge(kept.path_of(out, name), run)
    page.write(out, suites=("moss", "fern"), command="make field")
    return out / "results.html"


@pytest.fixture(scope="module")
def found(written):
    return Page(written.read_text())


def flat(element):
    return " ".join(element["text"].split())


def rows(found):
    """The whole table's rows, by id: the texts of each."""
    texts, row = {}, None
    for element in found.elements:
        if element["tag"] == "tr":
            row = element["attributes"].get("id")
        elif row and element["tag"] in ("td", "th"):
            texts.setdefault(row, []).append(flat(element))
    return texts


def test_every_measured_cell_has_its_row_with_its_figure(found):
    table, count = rows(found), 0
    for name, run in RUNS.items():
        results = Results(run)
        for at, cell in results.placed():
            row = table[f"{name}-{cell['key'][:8]}"]
            value = results.worth(at.group, cell)
            shown = "failed" if cell["reason"] else f"{value.value:.2f}" if value else ""
            assert row[0] == name and row[6] == shown and row[2] == str(at.seed)
            assert row[5].removesuffix(" †") == at.method and row[-1] == cell["key"][:8]
            count += 1
    assert count == len(table) > 300


def test_every_figure_names_a_cell_that_is_on_the_page(found):
    ids = [e["attributes"]["id"] for e in found.elements if "id" in e["attributes"]]
    assert len(ids) == len(set(ids))
    links = found.classes("a", "code")
    assert len(links) > 100
    for link in links:
        target = link["attributes"]["href"].removeprefix("#")
        assert target in ids and target.endswith(link["text"])
    shown = [e for e in found.all("td") if e["attributes"].get("data-value", "-")[-4:].isdigit()]
    assert len(shown) > 50 and all(
        re.search(r"[0-9a-f]{8}$", flat(e)) for e in shown if "." in e["text"]
    )
    sentences = [flat(e) for e in found.all("li") if "%" in e["text"]]
    assert len(sentences) >= 6
    for sentence in sentences:
        for figure in re.finditer(r"\d+% to \d+%; ", sentence):
            assert re.match(r"[0-9a-f]{8}", sentence[figure.end() :])


def test_the_page_has_curves_claims_and_filters(found):
    assert len(found.classes("svg", "panel")) == 8 + 2 + 2
    text = flat(found.one("section", id="claims"))
    assert "degraded" in text and "points lost" in text
    controls = found.one("section", id="controls")
    assert len(found.classes("li", "passed")) == 3 * 3 and "merges well" in controls["text"]
    many = flat(found.one("section", id="crowd"))
    assert many.count("lockfern40.000.00 to 0.0") == 1 and many.count("private base") == 1
    options = [e["attributes"]["value"] for e in found.all("option")]
    assert {"", *RUNS, "lock", "private-low", "align", "distil_release", "alone"} <= set(options)
    answers = flat(found.one("section", id="answers"))
    assert answers.count("An unmodified") + answers.count("an unmodified") == len(RUNS)
    assert "holds only where the upper end" in flat(found.one("section", id="measured"))


def test_nothing_is_fetched_and_no_name_becomes_mark_up(found, written):
    assert not re.search(r"url\(|@import|https?://", written.read_text())
    for element in found.elements:
        assert not element["attributes"].keys() & {"src", "srcset", "action"}
        assert not any(name.startswith("on") for name in element["attributes"])
        assert element["attributes"].get("href", "#").startswith("#")
    assert f"fern: {EVIL}" in [e["text"] for e in found.all("h2")]


def test_a_page_without_cells_says_so(tmp_path):
    page.write(tmp_path)
    text = (tmp_path / "results.html").read_text()
    assert "No cells are kept beside this page" in text


@pytest.fixture
def browser():
    with opened() as one:
        yield one


def test_the_page_in_a_browser(browser, written):
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            set_screen(browser, width, scheme)
            browser.get(written.as_uri())
            fits(browser, width)
            draws(browser, width)
    quiet(browser)
    set_screen(browser, 1280, "light")
    browser.get(written.as_uri())
    sorts(browser)
    filters(browser)
    leads(browser)
    quiet(browser)


def draws(browser, width):
    """Each price curve is of a size that can be read, and inside the page."""
    script = """
      return [...document.querySelectorAll("svg.panel")].map((one) => {
        const box = one.getBoundingClientRect();
        return [box.width, box.height, box.left, box.right,
          Math.max(...[...one.querySelectorAll(".curve")].map((c) => c.getTotalLength()))];
      });
    """
    panels = browser.execute_script(script)
    assert len(panels) == 12
    for wide, high, left, right, length in panels:
        assert wide > 250 and high > 200 and left >= 0 and right <= width and length > 100


def sorts(browser):
    """By V from the most and from the least, failed ones last both times; then as it was."""
    first = press(browser, "#cells", 6)
    second = press(browser, "#cells", 6)
    for values, reverse in ((first, True), (second, False)):
        known = [float(value) for value in values if value not in ("failed", "")]
        assert known == sorted(known, reverse=reverse) and len(known) > 300
        assert set(values[len(known) :]) == {"failed", ""}
    press(browser, "#cells", 6)
    attacks = press(browser, "#cells", 4)
    assert attacks == sorted(attacks, key=str.lower) == press(browser, "#cells", 4)[::-1]
    press(browser, "#cells", 4)
    best = [float(value) for value in press(browser, ".entries", 3)]
    assert best == sorted(best, reverse=True)


def choose(browser, **wanted):
    """Chooses; gives what of the whole table is then seen: suite, defence and attack of rows."""
    script = """
      for (const [kind, name] of Object.entries(arguments[0])) {
        const select = document.querySelector(`[data-filter=${kind}]`);
        select.value = name;
        select.dispatchEvent(new Event("change"));
      }
      const rows = [...document.querySelectorAll("#cells tbody tr")];
      const seen = rows.filter((row) => row.getClientRects().length);
      return seen.map((row) => [row.dataset.suite, row.dataset.defence, row.dataset.attack]);
    """
    return browser.execute_script(script, wanted)


def filters(browser):
    """Each filter keeps what it names, two what both name; the rest of the page follows."""
    everything = choose(browser)
    for at, (kind, name) in enumerate((("suite", "moss"), ("defence", "lock"), ("attack", "aga"))):
        seen = choose(browser, **{kind: name})
        assert seen == [row for row in everything if row[at] == name] and seen
        choose(browser, **{kind: ""})
    both = choose(browser, suite="moss", defence="trap2")
    assert both == [row for row in everything if row[:2] == ["moss", "trap2"]]
    count = browser.find_element("css selector", "[data-count]").text
    assert count == f"{len(both)} of {len(everything)} shown"
    panels = "return [...document.querySelectorAll('svg.panel')].filter((p) => p.checkVisibility())"
    assert len(browser.execute_script(panels)) == 1
    heads = "return [...document.querySelectorAll('.answer')].filter((p) => p.checkVisibility())"
    assert len(browser.execute_script(heads)) == 1
    browser.find_element("css selector", "[data-reset]").click()
    assert choose(browser) == everything


def leads(browser):
    """A code leads to its cell's row, also where a filter had hidden it."""
    choose(browser, suite="moss", attack="aga")
    script = """
      const link = [...document.querySelectorAll("#answers a.code")].find(
        (one) => document.getElementById(one.hash.slice(1)).hidden);
      link.click();
      return link.hash.slice(1);
    """
    target = browser.execute_script(script)
    row = browser.find_element("id", target)
    assert row.is_displayed() and 0 <= browser.execute_script(
        "return arguments[0].getBoundingClientRect().top", row
    ) < 900  # fmt: skip
