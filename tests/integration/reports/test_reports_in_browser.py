"""The reports in a real browser, opened from disk with the network off: they run, and everybody
can read them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the pages go untested"
)

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KINDS = ("sweep", "latent", "vae", "optimizers")
WIDTHS = (1280, 390)


@dataclass
class Watched:
    """A page, and everything that went wrong on it."""

    page: Any
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on(
            "console",
            lambda said: said.type in ("error", "warning") and self.wrong.append(said.text),
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "about:")):
            self.wrong.append(f"asked for {url}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("FOLDRACE_BROWSER") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if found is None:
        pytest.skip(
            "no Chromium on this machine: the pages go untested (apt-get install chromium)"
        )
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module", params=KINDS)
def report(request: pytest.FixtureRequest) -> Path:
    """A page of each kind, of real sweeps."""
    kind = request.param
    root, sweep = request.getfixturevalue(
        "reported_comparison" if kind == "optimizers" else "reported_vae"
    )
    page: Path = root / sweep / "report" / f"{kind}.html"
    assert page.is_file()
    return page


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(address: str, width: int = 1280, scheme: str = "light") -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.page.goto(address, wait_until="load")
        return watched

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_runs_without_an_error_and_fits_its_window(
    report: Path, open_page: Any, width: int, scheme: str
) -> None:
    watched = open_page(report.as_uri(), width, scheme)
    assert watched.wrong == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert watched.page.locator("h1").count() == 1


def test_light_and_dark_differ_and_the_text_stands_out_from_both(
    report: Path, open_page: Any
) -> None:
    def colours(scheme: str) -> tuple[str, str]:
        page = open_page(report.as_uri(), 1280, scheme).page
        style = "getComputedStyle(document.body)"
        return page.evaluate(f"{style}.color"), page.evaluate(f"{style}.backgroundColor")

    (light_ink, light_paper), (dark_ink, dark_paper) = colours("light"), colours("dark")
    assert contrast(light_ink, light_paper) > 7 and contrast(dark_ink, dark_paper) > 7
    assert light_paper != dark_paper


def contrast(one: str, other: str) -> float:
    """The ratio of the Web Content Accessibility Guidelines, 1 to 21, of two ``rgb(…)``."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_picture_has_a_text_in_its_place(report: Path, open_page: Any) -> None:
    page = open_page(report.as_uri()).page
    assert page.locator("img, svg[role=img]").count() > 0
    bare = page.evaluate("""[...document.querySelectorAll('img, svg[role=img], canvas')]
           .filter(one => !['alt', 'aria-label'].some(name => one.getAttribute(name)?.trim()))
           .map(one => one.outerHTML.slice(0, 120))""")
    assert bare == []


def test_it_runs_in_a_frame_that_may_do_nothing_but_run_scripts(
    report: Path, open_page: Any, tmp_path: Path
) -> None:
    """As MLflow shows an artifact."""
    frame = tmp_path / "frame.html"
    content = report.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(
        '<!doctype html><iframe sandbox="allow-scripts" width=1000 height=800'
        f' srcdoc="{content}"></iframe>'
    )
    watched = open_page(frame.as_uri())
    assert watched.page.frames[1].locator("h1").count() == 1
    assert watched.wrong == []


def test_it_is_small_enough_to_be_mailed(report: Path) -> None:
    assert report.stat().st_size < 8_000_000


def test_hovering_over_a_point_of_the_latent_space_shows_its_image(
    reported_vae: tuple[Path, str], open_page: Any
) -> None:
    root, sweep = reported_vae
    watched = open_page((root / sweep / "report" / "latent.html").as_uri())
    page = watched.page
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    seen = set()
    for across in range(2, 19):
        for down in range(2, 19):
            page.mouse.move(
                box["x"] + box["width"] * across / 20, box["y"] + box["height"] * down / 20
            )
            thumb = page.locator("#thumb")
            if thumb.is_visible():
                seen.add(thumb.get_attribute("alt") or thumb.get_attribute("aria-label"))
    assert len(seen) > 3 and None not in seen and "" not in seen
    assert watched.wrong == []
