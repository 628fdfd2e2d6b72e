"""Headless Chromium, and what it finds wrong with a page that should need nothing but itself."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESKTOP, PHONE = 1280, 390  # CSS pixels
OWN_SCHEMES = ("file:", "data:")


def program() -> str | None:
    """The Chromium or Chrome of this machine, if it has one."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def launched(executable: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def offline(browser: Browser, width: int, scheme: str = "light") -> Iterator[Page]:
    """An empty page without a network, in a window of that width and colour scheme."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    yield context.new_page()
    context.close()


def watched(page: Page) -> list[str]:
    """A list that grows as the page loads: requests elsewhere, errors on the console and of scripts."""
    found: list[str] = []
    page.on("request", lambda request: found.extend(_elsewhere(request.url)))
    page.on("console", lambda message: found.extend([f"console: {message.text}"] * (message.type == "error")))
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    return found


def _elsewhere(url: str) -> list[str]:
    return [] if url.startswith(OWN_SCHEMES) else [f"request: {url}"]
