"""The report: one page whose charts and tables follow a switch between the settings, and its tables as texts."""

from collections.abc import Iterator
from typing import Any

from moe_tune.analysis.charts import CHARTS
from moe_tune.analysis.findings import SCOPE_LABELS, TONES, Analysis
from moe_tune.analysis.report_tables import TABLES, sample_line, tables_at
from moe_tune.reports.one_line import one_line
from moe_tune.reports.page import render_page
from moe_tune.reports.table import Table, words
from moe_tune.stats.ratios import FEWEST

IN_TEXT = ("activated", "entropy", "weights", "spread", "ranked", "sensitivity", "committees", "regret")
"""Tables in Markdown and LaTeX, too."""
WORDS = (
    "Routing statistics are associational: they describe which experts tokens went to and how the questions of those "
    "tokens were answered; they cannot say that an expert made an answer right or wrong."
)


def render_report(analysis: Analysis) -> str:
    """Return the report as one HTML page that needs no other file and no network."""
    parts = {setting.key: analysis.at(setting) for setting in analysis.settings}
    figures = {
        name: {key: chart for key, part in parts.items() if (chart := draw(part)) is not None}
        for name, draw in CHARTS.items()
    }
    made = {key: tables_at(part) for key, part in parts.items()}
    tables = {
        name: {"title": title, "views": {key: tables[name] for key, tables in made.items() if name in tables}}
        for name, (title, *_) in TABLES.items()
    }
    return render_page(
        "analysis/report.html.jinja",
        figures,
        [{"key": setting.key, "shots": setting.shots, "scope": setting.scope} for setting in analysis.settings],
        title=analysis.title,
        lead=analysis.lead,
        notes=analysis.notes,
        settings=analysis.settings,
        scope_labels=SCOPE_LABELS,
        tones=TONES,
        fewest=FEWEST,
        samples={key: sample_line(part) for key, part in parts.items()},
        claims=_claims(analysis),
        accuracy=accuracies(analysis),
        about={key.replace("_", " "): one_line(value) for key, value in analysis.about.items() if key != "accuracy"},
        tables=tables,
    )


def render_markdown(analysis: Analysis) -> str:
    """Return the analysis as Markdown: the claims, and under every setting the paper's tables, each with its method."""
    return "\n\n".join(_blocks(analysis)) + "\n"


def render_latex(analysis: Analysis) -> str:
    """Return the tables of the Markdown as LaTeX."""
    return "\n".join(table.latex() for setting in analysis.settings for table in _in_text(analysis.at(setting)))


def accuracies(analysis: Analysis) -> dict[str, str]:
    """Return the accuracy with its interval by number of worked examples, such as ``5-shot``."""
    return {f"{shots}-shot": str(text) for shots, text in analysis.about.get("accuracy", {}).items()}


def _blocks(analysis: Analysis) -> Iterator[str]:
    yield from (f"# {analysis.title}", analysis.lead, WORDS, *analysis.notes)
    yield "## Claims of the paper"
    said = analysis.claims
    where = [f"{SCOPE_LABELS.get(one['scope'], one['scope'])}, {one['shots']}-shot" for one in said]
    columns = {"claim": "claim", "verdict": "verdict", "ours": "ours", "quoted, another model": "quoted"}
    filled = [words(header, [claim[key] for claim in said]) for header, key in columns.items()]
    yield Table([filled[0], words("scope", where), *filled[1:]]).markdown()
    definitions = {f"{claim['claim']}: {claim['definition']}": None for claim in said}
    yield "\n".join(f"- {definition}" for definition in definitions) or "No claim was tested."
    for setting in analysis.settings:
        yield f"## {setting.label}"
        for table in _in_text(analysis.at(setting)):
            yield from (f"### {table.title}", f"{table.caption} Evidence: {table.evidence}.", table.markdown())


def _in_text(part: Analysis) -> Iterator[Table]:
    yield from (table for name, table in tables_at(part).items() if name in IN_TEXT)


def _claims(analysis: Analysis) -> list[dict[str, Any]]:
    """Return one entry per claim, with what was found at each setting."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in analysis.claims:
        found.setdefault(str(claim["claim"]), {})[f"{claim['shots']}|{claim['scope']}"] = claim
    return [{"claim": claim, "views": views} for claim, views in found.items()]
