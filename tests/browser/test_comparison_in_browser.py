"""The page of a comparison draws every figure, also one that was folded away, and asks for nothing."""

import pytest
from chromium import NAMES, find_browser, open_page
from made_up_runs import write_run

from moe_tune.compare.report import compare_runs

if find_browser() is None:
    reason = f"no browser: none of {', '.join(NAMES)} is installed, the comparison is not looked at"
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.browser


def test_every_figure_of_a_comparison_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("moe_tune.compare.report.FEW_SUBJECTS", 1)  # all but the first arm's are folded
    base = write_run(tmp_path / "base", name="base")
    arms = [write_run(tmp_path / f"arm-{gain}", name=f"arm-{gain}", gain=gain) for gain in (0.05, 0.2)]
    compare_runs(base, arms, tmp_path / "out")
    with open_page(tmp_path / "out" / "report.html") as page:
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
        page.wait_for_timeout(500)
        for box in page.locator("[data-figure]").all():
            assert box.locator("svg path").count() > 0, box.get_attribute("data-figure")
            room = box.evaluate("one => one.parentElement.clientWidth")
            assert 0.5 * room < box.locator(".main-svg").first.bounding_box()["width"] <= room
        assert page.locator("td.good").first.inner_text().startswith("improved")
        assert page.complaints == []
        assert {url.partition(":")[0] for url in page.requested} <= {"file", "data", "blob"}
