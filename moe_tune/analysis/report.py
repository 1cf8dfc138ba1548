"""The report: one self-contained page whose figures and tables follow a switch between the settings."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from moe_tune.analysis.figures import FIGURES
from moe_tune.analysis.findings import SCOPE_LABELS, Analysis
from moe_tune.analysis.report_tables import (
    activated_table,
    entropy_table,
    pairs_table,
    ranked_experts,
    sample_line,
    sensitivity_table,
    spread_table,
    subject_table,
    weights_table,
)
from moe_tune.reports.one_line import one_line

TABLES = {
    "activated": ("Activated experts per layer", activated_table),
    "entropy": ("Entropy, weights and drift per layer", entropy_table),
    "weights": ("Mean sorted weights per layer", weights_table),
    "spread": ("Accuracy spread per layer", spread_table),
    "ranked": ("Best and worst experts per layer", ranked_experts),
    "subjects": ("Subjects", subject_table),
    "pairs": ("Experts chosen together", pairs_table),
    "sensitivity": ("Under small changes of the input", sensitivity_table),
}
"""Tables of the page by name: heading and what makes them."""

MAY_LACK = {"pairs": "co_activation", "sensitivity": "sensitivity", "subjects": "subjects"}
"""Tables that are made at the settings only where their data has rows."""


def render_report(analysis: Analysis) -> str:
    """Return the report as one HTML page that needs no other file and no network.

    Args:
        analysis: What to show.
    """
    settings = analysis.settings
    parts = {setting.key: analysis.at(setting) for setting in settings}
    figures: dict[str, dict[str, Any]] = {}
    for name, draw in FIGURES.items():
        drawn = {key: draw(part) for key, part in parts.items()}
        figures[name] = {key: json.loads(figure.to_json()) for key, figure in drawn.items() if figure is not None}
    tables = [
        {
            "name": name,
            "title": title,
            "views": {
                key: make(part)
                for key, part in parts.items()
                if name not in MAY_LACK or not getattr(part, MAY_LACK[name]).empty
            },
        }
        for name, (title, make) in TABLES.items()
    ]
    environment = Environment(
        loader=PackageLoader("moe_tune", "analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        analysis=analysis,
        settings=settings,
        scope_labels=SCOPE_LABELS,
        samples={key: sample_line(part) for key, part in parts.items()},
        claims=_claims(analysis),
        accuracy=_accuracy(analysis),
        about={key.replace("_", " "): one_line(value) for key, value in analysis.about.items() if key != "accuracy"},
        tables={table["name"]: table for table in tables},
        figures=figures,
        keys=[{"key": setting.key, "shots": setting.shots, "scope": setting.scope} for setting in settings],
        library=Markup(get_plotlyjs()),
        script=Markup(files("moe_tune.analysis").joinpath("report.js").read_text(encoding="utf-8")),
    )


def _claims(analysis: Analysis) -> list[dict[str, Any]]:
    """Return one entry per claim, with what was found at each setting."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in analysis.claims:
        found.setdefault(str(claim["claim"]), {})[f"{claim['shots']}|{claim['scope']}"] = claim
    return [{"claim": claim, "views": views} for claim, views in found.items()]


def _accuracy(analysis: Analysis) -> dict[str, str]:
    accuracy = analysis.about.get("accuracy", {})
    texts = accuracy.items() if isinstance(accuracy, Mapping) else [("accuracy", accuracy)]
    return {f"{shots}-shot" if str(shots).isdigit() else str(shots): str(text) for shots, text in texts}
