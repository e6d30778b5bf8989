"""The page in a real Chromium, without a network: what is drawn, how large, and what it says."""

import pytest

from tests.auditing.report.synthetic import DOCUMENTS
from tests.browser import WIDTHS, brightness, fits, opened, press, quiet, set_screen
from unmergeable.auditing.report import render_html

FIGURES = """
return [...document.querySelectorAll("figure svg")]
  .filter((figure) => getComputedStyle(figure).display !== "none")
  .map((figure) => {
    const box = figure.getBoundingClientRect();
    const texts = [...figure.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
    return {
      width: box.width, height: box.height, left: box.left, right: box.right,
      curves: [...figure.querySelectorAll(".curve")].filter((c) => c.getTotalLength() > 50).length,
      type: 12 * box.width / figure.viewBox.baseVal.width,
      textLeft: Math.min(...texts.map((t) => t.left)),
      textRight: Math.max(...texts.map((t) => t.right)),
    };
  });
"""


@pytest.fixture
def browser():
    with opened() as found:
        yield found


def test_the_page_in_a_browser(browser, tmp_path):
    for name in ("full", "crowded", "minimal"):
        path = tmp_path / f"{name}.html"
        path.write_text(render_html(DOCUMENTS[name]()), encoding="utf-8")
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                set_screen(browser, width, scheme)
                browser.get(path.as_uri())
                assert browser.execute_script("return document.readyState") == "complete"
                fits(browser, width)
                draws(browser, width, 0 if name == "minimal" else 4)
                light = brightness(browser, "body", "backgroundColor") > 128
                assert light == (scheme == "light")
        quiet(browser)
    browser.get((tmp_path / "full.html").as_uri())
    shades(browser)
    sorts(browser)
    points(browser)
    quiet(browser)


def draws(browser, width, count):
    """The figures are there, of a real size, and their text can be read."""
    figures = browser.execute_script(FIGURES)
    assert len(figures) == count
    for figure in figures:
        assert figure["width"] > 200 and figure["height"] > 150 and figure["curves"] >= 3
        assert figure["left"] >= 0 and figure["right"] <= width
        assert figure["textLeft"] >= 0 and figure["textRight"] <= width
        assert figure["type"] >= 9


def shades(browser):
    """Worth shows in the shade: in light mode, the more the darker."""
    set_screen(browser, 1280, "light")
    row = "#heat tbody.best td:nth-of-type({})"
    shades = [brightness(browser, row.format(i), "backgroundColor") for i in (2, 3, 8, 1)]
    assert shades == sorted(shades, reverse=True) and shades[0] - shades[-1] > 100


def sorts(browser):
    """A heading sorts by its column, then the other way, then gives the document's order back."""
    script = "return [...document.querySelectorAll('#heat tbody.body th')].map((h) => h.innerText)"
    before = browser.execute_script(script)
    for reverse in (True, False):
        values = press(browser, "#heat", 4)
        known = [float(value) for value in values if value != "failed"]
        assert known == sorted(known, reverse=reverse) and values[-1] == "failed"
    press(browser, "#heat", 4)
    assert browser.execute_script(script) == before
    names = press(browser, "#heat", 0)
    assert names[0].startswith("A plug-in") and names == press(browser, "#heat", 0)[::-1]
    press(browser, "#heat", 0)


def points(browser):
    """A cell that is pressed tells its details, inside the page."""
    script = """
      document.querySelector("#heat tbody.body td:last-child").click();
      const tip = document.getElementById("tip"), box = tip.getBoundingClientRect();
      return [tip.hidden, tip.textContent, box.left, box.right];
    """
    hidden, text, left, right = browser.execute_script(script)
    assert not hidden and "V 0.71 (0.67 to 0.75)" in text and "theft 0.73" in text
    assert left >= 0 and right <= 1280
