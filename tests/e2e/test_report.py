"""Reports as a reader sees them: in a browser, from disk, wide, on a phone and in print."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from dist_dash.commands.report import report_command
from dist_dash.report import draw
from tests.e2e.runs import finish
from tests.support.reported import reported_run, with_groups

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
)
EVIL = "<script>alert(1)</script>"
PICTURES = {
    *("learning-curves", "reliability", "coverage", "pairwise-matrices", "embedding", "sizes", "ascent-directions"),
    *("loss-plane", "segments", "loss-within", "step-time"),
}


class Browser:
    """Chromium without a window: opens pages, and knows what they asked for and complained about."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in FLAGS:
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open(self, page: Path, width: int = 1280) -> None:
        """Load a page from disk, its images decoded."""
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        for log in ("performance", "browser"):
            self.driver.get_log(log)
        self.driver.get(page.absolute().as_uri())
        self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "Promise.allSettled([...document.images].map(image => image.decode())).then(() => done())"
        )

    def run(self, script: str) -> Any:
        """What a script finds in the page."""
        return self.driver.execute_script(f"return {script}")

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    @property
    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def printed(self) -> bytes:
        """The page as PDF."""
        found = self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        return base64.b64decode(found["data"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"needs a browser: apt-get install chromium chromium-driver ({', '.join(lacking)} missing)")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run and its whole report."""
    path = tmp_path_factory.mktemp("report") / "run"
    finish(path, 3, 3, "--method=DASH", "--engine=Torch", "--max_steps=88", "--record.every=4")
    assert report_command([str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """Pictures are drawn in this process, which has imported already what that takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "MOST_PROCESSES", 1)
        yield


@pytest.fixture(scope="module")
def folder(run: Path, here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = {"SGD ensemble": 1.0, EVIL: 3.0, "DASH, $x$": 1.05, "a very long name of a group of runs " * 3: 2.0}
    path = with_groups(tmp_path_factory.mktemp("study") / EVIL, groups, seeds=2, sections=("clean", EVIL))
    assert report_command([str(path), "--without=embedding,sizes"]) == 0
    return path


def check(browser: Browser, page: Path, width: int) -> None:
    """Nothing is missing, nothing is asked of a network, nothing is said, nothing sticks out."""
    browser.open(page, width)
    outside = [url for url in browser.requests if url != page.absolute().as_uri() and not url.startswith("data:")]
    assert not outside
    assert not browser.complaints
    missing = browser.run("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)")
    assert not missing
    assert browser.run("document.documentElement.scrollWidth") <= browser.run("window.innerWidth")
    small = browser.run(
        "[...document.querySelectorAll('p, li, td, th, dt, dd, small, code, a, summary, caption')]"
        ".filter(e => parseFloat(getComputedStyle(e).fontSize) < 16).length"
    )
    assert small == 0
    assert browser.run("document.scripts.length") == 0
    wider = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    if width >= 1280:
        assert browser.run(f"{wider}.map(e => e.ariaLabel)") == []
    assert browser.run(f"{wider}.filter(e => !e.querySelector('table')).length") == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_of_a_run_opens_from_disk(browser, run, width):
    check(browser, run / "report.html", width)
    assert browser.run("document.images.length") == len(PICTURES)


def test_numbers_on_the_screen_are_those_of_the_evaluation(browser, run):
    browser.open(run / "report.html")
    evaluation = json.loads((run / "evaluation.json").read_text())
    cells = browser.run(
        "[...document.querySelectorAll('[data-key]')].map(c => [c.dataset.key, c.dataset.value, c.innerText])"
    )
    shown = {key: (float(value), text) for key, value, text in cells if value is not None}
    for name in ("ensemble", "member_mean", "diversity"):
        for figure, value in evaluation[name].items():
            if isinstance(value, int | float):
                assert shown[f"{name}.{figure}"][0] == value
    for index, member in enumerate(evaluation["members"]):
        for figure, value in member.items():
            if value is not None:
                assert shown[f"members.{index}.{figure}"][0] == value
    assert shown["ensemble.accuracy"][1] == f"{100 * evaluation['ensemble']['accuracy']:.2f}"
    assert shown["ensemble.cal_nll"][1] == f"{evaluation['ensemble']['cal_nll']:.4f}"


def test_a_trained_run_has_every_picture(run):
    assert {file.stem for file in (run / "report").iterdir()} == PICTURES
    assert (run / "report.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("width", [1920, 1280, 390])
def test_the_comparison_opens_from_disk(browser, folder, width):
    check(browser, folder / "report.html", width)
    first = "[...document.querySelectorAll('section:has(.verdict) img, section:has(.verdict) table')][0].tagName"
    assert browser.run(first) == "IMG"
    assert browser.run("document.images.length") == 10
    assert (folder / "report.html").stat().st_size < 8_000_000


def test_names_with_markup_do_no_harm(browser, here, tmp_path):
    run = reported_run(tmp_path / EVIL, recipe={"data": {"class_path": EVIL, "init_args": {"root": EVIL}}})
    assert (
        report_command([str(run), "--without=landscape,coverage,sizes,reliability,embedding,learning,directions"]) == 0
    )
    check(browser, run / "report.html", 390)
    assert "script>" in browser.run("document.querySelector('h1').innerText")
    assert EVIL in browser.run("document.querySelector('header p').innerText")


def test_print_shows_what_is_folded_on_the_screen(browser, run):
    page = run / "report.html"
    browser.open(page)
    seen = "[...document.querySelectorAll('details pre')].map(e => e.checkVisibility())"
    assert browser.run(seen) == [False, False]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.run(seen) == [True, True]
    clipped = browser.run(
        "[...document.querySelectorAll('.scroll, pre')].filter(e => getComputedStyle(e).overflowX !== 'visible').length"
    )
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert clipped == 0
    assert browser.printed().startswith(b"%PDF")
