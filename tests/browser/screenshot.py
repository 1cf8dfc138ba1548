"""Take pictures of pages, wide and narrow, beside them: python tests/browser/screenshot.py report.html trace.html.

A page that scrolls sideways is told, and the exit code is 1: only tables may, inside their own box.
"""

import sys
from pathlib import Path

from chromium import NAMES, find_browser, open_page

WIDTHS = (1300, 390)
HEIGHT, HIGHEST = 1930, 8000
"""Pixels of what is shown of a page that is too high to be shown whole, and of the highest that is."""


def main(pages):
    if find_browser() is None:
        sys.exit(f"expected one of {', '.join(NAMES)} but found none. Hint: apt-get install chromium.")
    wide = []
    for file in map(Path, pages):
        for width in WIDTHS:
            with open_page(file, width, HEIGHT, scale=2.0, drawn="svg, table") as page:
                picture = file.with_name(f"{file.stem}-{width}.png")
                reach, height = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollHeight]")
                page.screenshot(path=picture, full_page=height < HIGHEST)
                print(f"wrote {picture}, {reach} of {width} pixels wide, {height} high")
                wide += [f"{file} at {width}"] if reach > width else []
    return f"these scroll sideways: {', '.join(wide)}" if wide else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
