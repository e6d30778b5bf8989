"""A real Chromium without a network, and what every page must do in it."""

import os
import shutil
from contextlib import contextmanager

import pytest

WIDTHS = (1280, 390)
# A root user has no sandbox; the rest keeps Chromium from calling home, or anywhere.
ARGUMENTS = ["--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
ARGUMENTS += ["--disable-dev-shm-usage", "--runner-resolver-rules=MAP * ~NOTFOUND"]


@contextmanager
def opened():
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
    try:
        yield found
    finally:
        found.quit()


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


def press(browser, table, column):
    """Presses a heading, and gives the column's texts as they then stand."""
    script = """
      const [table, column] = arguments;
      table.querySelectorAll(".heads button")[column].click();
      const rows = [...table.querySelectorAll("tbody.body tr")].filter((row) => !row.hidden);
      return rows.map((row) => row.cells[column].dataset.value ?? row.cells[column].textContent);
    """
    return browser.execute_script(script, browser.find_element("css selector", table), column)
