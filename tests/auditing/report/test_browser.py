"""The page in a real Chromium, without a network: what is drawn, how large, and what it says."""

import os
import shutil

import pytest

from tests.auditing.report.synthetic import DOCUMENTS
from unmergeable.auditing.report import render_html

WIDTHS = (1280, 390)
# A root user has no sandbox; the rest keeps Chromium from calling home, or anywhere.
ARGUMENTS = ["--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
ARGUMENTS += ["--disable-dev-shm-usage", "--runner-resolver-rules=MAP * ~NOTFOUND"]

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
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver (Debian: apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else []):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


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


def set_screen(browser, width, scheme):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def fits(browser, width):
    """The page never scrolls sideways, whatever its tables do."""
    root = "document.documentElement"
    script = f"return [innerWidth, {root}.clientWidth, {root}.scrollWidth]"
    inner, client, scroll = browser.execute_script(script)
    assert inner == width and scroll <= client


def draws(browser, width, count):
    """The figures are there, of a real size, and their text can be read."""
    figures = browser.execute_script(FIGURES)
    assert len(figures) == count
    for figure in figures:
        assert figure["width"] > 200 and figure["height"] > 150 and figure["curves"] >= 3
        assert figure["left"] >= 0 and figure["right"] <= width
        assert figure["textLeft"] >= 0 and figure["textRight"] <= width
        assert figure["type"] >= 9


def quiet(browser):
    """No script failed, and nothing was asked of a network."""
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def brightness(browser, selector, what):
    """The mean of a colour's three channels, 0 to 255, as it is really painted."""
    script = """
      const canvas = document.createElement("canvas").getContext("2d");
      canvas.fillStyle = getComputedStyle(document.querySelector(arguments[0]))[arguments[1]];
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    """
    return sum(browser.execute_script(script, selector, what)) / 3


def shades(browser):
    """Worth shows in the shade: in light mode, the more the darker."""
    set_screen(browser, 1280, "light")
    row = "#heat tbody.best td:nth-of-type({})"
    shades = [brightness(browser, row.format(i), "backgroundColor") for i in (2, 3, 8, 1)]
    assert shades == sorted(shades, reverse=True) and shades[0] - shades[-1] > 100


def sorts(browser):
    """A heading sorts by its column, and pressed again gives the document's order back."""
    script = """
      const [column, press] = arguments;
      if (press) document.querySelectorAll("#heat .heads button")[column].click();
      const rows = [...document.querySelectorAll("#heat tbody.body tr")];
      return rows.map((row) => row.cells[column].textContent);
    """
    before = browser.execute_script(script, 0, False)
    values = browser.execute_script(script, 4, True)
    known = [float(value) for value in values if value != "failed"]
    assert known == sorted(known, reverse=True) and values[-1] == "failed"
    browser.execute_script(script, 4, True)
    assert browser.execute_script(script, 0, False) == before


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
