"""The report as a reader meets it: opened from disk, without a network, in a real browser."""

import io

import numpy as np
import pytest
from chromium import NAMES, find_browser, open_page
from made_up_analysis import made_up_analysis
from PIL import Image
from waiting import until

from moe_tune.analysis.files import write_analysis

if find_browser() is None:
    reason = f"no browser: none of {', '.join(NAMES)} is installed, the report is not looked at"
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def analysis():
    return made_up_analysis()


@pytest.fixture(scope="module")
def report(analysis, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_analysis(analysis, out)
    return out / "report.html"


@pytest.fixture(scope="module")
def page(report):
    with open_page(report) as opened:
        yield opened


def shown(page, table):
    return page.locator(f"#table-{table} [data-setting]:not([hidden]) table")


def column(page, table, place):
    return shown(page, table).locator(f"tbody td:nth-child({place})").all_inner_texts()


def test_no_request_leaves_the_disk_and_nothing_complains(page, report):
    assert {url for url in page.requested if not url.startswith("data:")} == {report.resolve().as_uri()}
    assert page.complaints == []


def test_every_figure_is_drawn(page):
    for box in page.locator("[data-figure]").all():
        assert box.locator("svg path").count() > 0, box.get_attribute("data-figure")
    assert page.locator("[data-figure=usage] .hm image").count() == 2


def test_a_click_sorts_by_number_and_a_second_the_other_way_round(page):
    # "subjects" has numbers of several lengths, which words would order otherwise.
    button = shown(page, "subjects").locator("th button").nth(1)
    header = shown(page, "subjects").locator("th").nth(1)
    button.click()
    rising = [int(text.replace(",", "")) for text in column(page, "subjects", 2)]
    assert rising == sorted(rising)
    assert len(set(rising)) > 1
    assert header.get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert [int(text.replace(",", "")) for text in column(page, "subjects", 2)] == rising[::-1]
    assert header.get_attribute("aria-sort") == "descending"


def test_filter_keeps_the_rows_that_have_the_word(page):
    box = page.locator("#table-subjects input")
    box.fill("subject 03")
    assert shown(page, "subjects").locator("tbody tr:visible").count() == 1
    box.fill("")
    assert shown(page, "subjects").locator("tbody tr:visible").count() == 6


def test_the_switch_changes_tables_figures_and_claims(page, analysis):
    def seen():
        return column(page, "activated", 2), page.locator("[data-figure=usage] .hm image").first.get_attribute("href")

    def expected(setting):
        return [str(count) for count in analysis.at(setting).layers["activated"]]

    first, other = analysis.settings[0], next(one for one in analysis.settings if one.key == "5|all")
    before = seen()
    assert before[0] == expected(first)
    page.locator("button[data-shots='5']").click()
    page.locator("button[data-scope=all]").click()
    after = seen()
    assert after[0] == expected(other) != before[0]
    assert after[1] != before[1]
    assert page.locator("button[data-scope=all]").get_attribute("aria-pressed") == "true"
    assert page.locator(".claims [data-setting='5|all']:visible").count() == 4
    assert page.locator("[data-setting]:visible:not([data-setting='5|all'])").count() == 0
    assert page.locator("#table-sensitivity .none:not([hidden])").count() == 1
    page.locator("button[data-go='0|answer']").first.click()
    assert seen() == before


def test_hover_over_a_cell_shows_its_value(page, analysis):
    experts = analysis.at(analysis.settings[0]).experts
    drawing = page.locator("[data-figure=usage] .nsewdrag")
    for fired in (True, False):
        row = experts[(experts["count"] > 0) == fired].iloc[0]
        drawing.scroll_into_view_if_needed()
        box = drawing.bounding_box()
        x = box["x"] + box["width"] * (row["expert"] + 0.5) / 16
        y = box["y"] + box["height"] * (row["layer"] + 0.5) / 4
        page.mouse.move(x - 3, y)
        page.mouse.move(x, y)
        text = page.locator("[data-figure=usage] .hoverlayer .hovertext")
        text.first.wait_for()
        said = text.first.text_content()
        assert f"layer {row['layer']}, expert {row['expert']}" in said
        assert (f"{100 * row['usage']:.2f}%" if fired else "never fired") in said
        page.mouse.move(5, 5)


def brightness(colour):
    parts = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in parts)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


# The figures are drawn anew before the frame that follows a change of scheme.
READ_COLOURS = """async () => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const names = ["h1", ".lead", ".method", "td", ".verdict", ".quoted", "th button", ".xtick text", ".ytitle"];
  return names.map((name) => {
    const element = document.querySelector(name), style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    return [name, ink, getComputedStyle(document.body).backgroundColor];
  });
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_stands_out_from_the_page(page, scheme):
    page.emulate_media(color_scheme=scheme)
    colours = page.evaluate(READ_COLOURS)
    for name, ink, ground in colours:
        high, low = sorted((brightness(ink), brightness(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name}: {ink} on {ground}"
    assert (brightness(colours[0][2]) < 0.1) == (scheme == "dark")
    page.evaluate("scrollTo(0, 0)")
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), dtype=float)
    # Not one flat area beside a heading: every fifth of the page shows something.
    assert all(band.std() > 2 for band in np.array_split(picture, 5))


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 390, "height": 900})
    until(lambda: page.evaluate("document.documentElement.scrollWidth") <= 390)  # the figures follow a moment later
    page.set_viewport_size({"width": 1280, "height": 900})


def test_paper_is_light(page):
    def ground():
        return brightness(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert ground() > 0.8
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert ground() < 0.1
    page.emulate_media(color_scheme="light")


def test_nothing_complained_in_all_this(page):
    assert page.complaints == []
