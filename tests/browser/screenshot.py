"""Take a picture of a report: python tests/browser/screenshot.py report.html report.png."""

import sys
from pathlib import Path

from chromium import NAMES, find_browser, open_page

HEIGHT = 1930  # down to the first figure and its table


def main(report, picture):
    if find_browser() is None:
        sys.exit(f"expected one of {', '.join(NAMES)} but found none. Hint: apt-get install chromium.")
    with open_page(Path(report), height=HEIGHT, scale=2.0) as page:
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": 1280, "height": HEIGHT})
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
