"""An audit as files: its tables, a page, a picture and Markdown."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from moe_tune.base.published import published, write_json, write_parquet
from moe_tune.interventions.audit import Audit
from moe_tune.interventions.charts import CHARTS
from moe_tune.interventions.effects import INTERVENTIONAL
from moe_tune.interventions.tables import BOTH, TABLES, lead, tables_of
from moe_tune.reports.chart import Chart
from moe_tune.reports.page import render_page
from moe_tune.reports.picture_drawer import draw

TITLE = "What happens without, by intervention"
CAPTIONS = {
    "map": ("Mean over all questions.", INTERVENTIONAL),
    "largest": ("Mean over all questions.", INTERVENTIONAL),
    "usage": ("A point per expert.", BOTH),
    "bridge": ("Spearman, a point per layer with its 95 % interval.", BOTH),
}


def write_audit(audit: Audit, out: Path) -> None:
    """Write ``ablate.html``, ``.md``, ``.png`` and ``.json``, and a parquet file per table, to a folder."""
    drawn = {name: (title, chart) for name, (title, make) in CHARTS.items() if (chart := make(audit)) is not None}
    tables = tables_of(audit)
    page = render_page(
        "interventions/ablate.html.jinja",
        {name: {"all": chart} for name, (_, chart) in drawn.items()},
        [{"key": "all"}],
        title=TITLE,
        lead=f"{audit.about['router']} router of {audit.about['model']}, {audit.about['questions']}",
        sentences=lead(audit),
        charts={name: (title, *CAPTIONS[name]) for name, (title, _) in drawn.items()},
        tables=tables,
        about=audit.about,
    )
    with published(out / "ablate.html") as draft:
        draft.write_text(page, encoding="utf-8")
    with published(out / "ablate.md") as draft:
        draft.write_text(render_markdown(audit), encoding="utf-8")
    with published(out / "ablate.png") as draft:
        _picture([chart for _, chart in drawn.values()]).savefig(draft, format="png", dpi=110)
    write_json(out / "ablate.json", plain(audit))
    for name, (_, rows) in TABLES.items():
        if len(frame := rows(audit)):
            write_parquet(frame, out / f"{name}.parquet")
    write_parquet(audit.observed, out / "observed.parquet")


def render_markdown(audit: Audit) -> str:
    """Return the audit as Markdown."""
    blocks = [f"# {TITLE}", *lead(audit)]
    for table in tables_of(audit).values():
        blocks += [f"## {table.title}", f"{table.caption} Evidence: {table.evidence}.", table.markdown()]
    facts = "\n".join(f"- {key}: {value}" for key, value in audit.about.items())
    return "\n\n".join([*blocks, facts]) + "\n"


def plain(audit: Audit) -> dict[str, object]:
    """Return the audit as plain values for JSON; a number that is not known is ``null``."""
    frames = {name: rows(audit) for name, (_, rows) in TABLES.items()}
    told = {
        name: frame.astype(object).where(frame.notna(), None).to_dict("records")
        for name, frame in frames.items()
        if len(frame)
    }
    return {"about": audit.about, "kind": audit.asked.kind, "sentences": lead(audit), **told}


def _picture(charts: Sequence[Chart]) -> Figure:
    """Return charts below one another."""
    heights = [chart.height / 80 for chart in charts]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    for axes, chart in zip(
        figure.subplots(len(charts), height_ratios=heights, squeeze=False)[:, 0], charts, strict=True
    ):
        draw(axes, chart)
    return figure
