"""One page that needs no other file and no network: its frame, its colours, its script and its charts."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from moe_tune.reports.chart import Chart
from moe_tune.reports.page_drawer import page_figure
from moe_tune.reports.palette import DARK, LIGHT, variables


def render_page(
    template: str, figures: Mapping[str, Mapping[str, Chart]], keys: list[dict[str, Any]], **names: Any
) -> str:
    """Return a page."""
    drawn = {
        name: {key: json.loads(page_figure(chart).to_json()) for key, chart in views.items()}
        for name, views in figures.items()
    }
    environment = Environment(
        loader=PackageLoader("moe_tune", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        figures=drawn,
        keys=keys,
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        library=Markup(get_plotlyjs()),
        script=Markup(files("moe_tune.reports").joinpath("page.js").read_text(encoding="utf-8")),
        **names,
    )
