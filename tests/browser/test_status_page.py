"""The status page in a real browser, beside a server that has something to show."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import losswire
from monitored import monitored

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402 -- where it is installed
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PICTURES = Path(os.environ.get("LOSSWIRE_PICTURES", "build"))

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def server():
    """A server that is asked one thing after another, right ones and wrong ones."""
    stop = threading.Event()

    def ask(target):
        logits = np.random.default_rng(0).normal(size=(256, 1000)).astype(np.float32)
        with losswire.Client(target) as client:
            while not stop.is_set():
                client.softmax_cross_entropy(logits, np.arange(256))

    with monitored() as running:
        asking = threading.Thread(target=ask, args=(running.target,))
        asking.start()
        yield running
        stop.set()
        asking.join()


@pytest.fixture(params=["light", "dark"])
def browser(request):
    """Chromium without a window, as wide as a phone; in either scheme of colours."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        scheme = [{"name": "prefers-color-scheme", "value": request.param}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.scheme = request.param
        yield driver


def shown(browser, chart):
    """What a chart says is the value now."""
    return browser.find_element(By.CSS_SELECTOR, f"#{chart} output").text


def test_it_draws_what_the_server_does(server, browser):
    """Live values and curves of what happens, none of what does not; readable on a phone."""
    browser.get(server.url)
    wait = WebDriverWait(browser, 60)
    curve = "return document.querySelector('#requests path').getAttribute('d')"
    wait.until(lambda _: (browser.execute_script(curve) or "").count("L") >= 2)  # a line
    assert "numpy" in browser.find_element(By.ID, "server").text
    assert losswire.__version__ in browser.find_element(By.ID, "server").text
    wait.until(lambda _: not shown(browser, "requests").startswith("0.00"))
    wait.until(lambda _: "s · " in shown(browser, "latency"))
    assert shown(browser, "errors").startswith("0.00")
    assert shown(browser, "rows").endswith("/s")
    median, most = shown(browser, "latency").split(" · ")
    assert {median[-1], most[-1]} == {"s"}
    assert shown(browser, "memory").split()[1] in {"MiB", "GiB"}
    width = "return [document.documentElement.scrollWidth, window.innerWidth]"
    needed, there = browser.execute_script(width)
    assert needed <= there
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[browser.scheme]
    PICTURES.mkdir(exist_ok=True)
    browser.save_screenshot(str(PICTURES / f"status-{browser.scheme}.png"))
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_it_says_when_the_server_is_gone(browser):
    """The last values stay, marked as what they are."""
    with monitored() as server:
        browser.get(server.url)
        stale = "return document.getElementById('state').dataset.stale"
        wait = WebDriverWait(browser, 60)
        wait.until(lambda _: browser.execute_script(stale) == "false")
    wait.until(lambda _: browser.execute_script(stale) == "true")
    assert browser.find_element(By.ID, "state").text.startswith("no answer")
