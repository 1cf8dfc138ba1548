"""The browser of this machine, driven without a network."""

import shutil
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser():
    """Return the path of the first browser found, or ``None``."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_page(file, width=1280, height=900, scheme="light", scale=1.0, drawn="[data-figure] .main-svg"):
    """Give a page that shows a file, once something is drawn, and what it asked for and complained of meanwhile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=scale,
            offline=True,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.requested, page.complaints = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda said: said.type in ("error", "warning") and page.complaints.append(said.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(file.resolve().as_uri())
        page.wait_for_selector(drawn)
        yield page
        browser.close()
