"""The files of an analysis: one page, Markdown, a summary and the tables, each written whole or not at all."""

import json
from pathlib import Path

from moe_tune.analysis.findings import BESIDE, Analysis
from moe_tune.analysis.report import render_latex, render_markdown, render_report
from moe_tune.base.published import published, write_parquet


def write_analysis(analysis: Analysis, out: Path) -> None:
    """Write ``report.html``, ``report.md``, ``report.tex``, ``summary.json``, and every table as CSV and parquet."""
    summary = {name: getattr(analysis, name) for name in ("title", "lead", "about", "claims", "notes")}
    texts = {
        "report.html": render_report(analysis),
        "report.md": render_markdown(analysis),
        "report.tex": render_latex(analysis),
        "summary.json": json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n",
    }
    for name, frame in analysis.tables().items():
        whole = frame if len(frame.columns) else frame.reindex(columns=list(BESIDE[name]))
        texts[f"{name}.csv"] = whole.to_csv(index=False, lineterminator="\n")
        write_parquet(whole, out / f"{name}.parquet")
    for name, text in texts.items():
        with published(out / name) as draft:
            draft.write_text(text, encoding="utf-8")
