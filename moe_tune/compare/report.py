"""The comparison's files: one self-contained HTML page, tables and the summary, written whole or not at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.base.published import published
from moe_tune.compare.agreed import agreed
from moe_tune.compare.arms import group_arms
from moe_tune.compare.beside_tables import beside_tables
from moe_tune.compare.charts import entropy_charts, forest_chart, shift_chart, subject_chart, usage_charts
from moe_tune.compare.columns import answers, further, headline, wide
from moe_tune.compare.comparison import Comparison, compare_arms
from moe_tune.compare.control import Control, control_table
from moe_tune.compare.non_inferiority import non_inferiority_tables
from moe_tune.compare.outside import is_outside, load_outside
from moe_tune.compare.routing_summary import RoutingSummary, summarise_routing
from moe_tune.compare.runs import load_run
from moe_tune.compare.setting import setting_of
from moe_tune.compare.table import render_csv, render_flips, render_markdown, summarise
from moe_tune.compare.words import described, method_line, openings_line, routing_line, subject_note, verdict
from moe_tune.reports.chart import Chart
from moe_tune.reports.one_line import one_line
from moe_tune.reports.page import render_page
from moe_tune.runs.answers import base_routing_file

FEW_SUBJECTS = 12
"""With more, the figures by subject are folded but for the first."""


def compare_runs(baseline: Path, runs: list[Path], out: Path, *, bootstrap: bool = False) -> Comparison:
    """Compare finished runs, or logs of other programs, with a baseline and write the comparison's files.

    They are ``report.html``, ``table.md``, ``table.tex``, ``table.csv``, ``flips.csv`` and ``summary.json``.

    Raises:
        DataError: A run is incomplete, a log damaged, or different questions were answered.
    """
    every = list({path.resolve(): path for path in (baseline, *runs)}.values())
    read, notes = agreed([load_outside(path) if is_outside(path) else load_run(path) for path in every])
    loaded = {run.path.resolve(): run for run in read}
    arms = group_arms(read)
    first = loaded[baseline.resolve()]
    name = next(name for name, members in arms.items() if first in members)
    comparison = compare_arms(arms, name, bootstrap=bootstrap)
    comparison = replace(comparison, notes=(*comparison.notes, *notes))
    known = pretrained_routing(loaded, comparison.primary)
    setting = setting_of(arms, comparison)
    write_comparison(comparison, out, title=f"Comparison with {name}", provenance=setting, pretrained=known)
    return comparison


def pretrained_routing(runs: Iterable[Path], split: str) -> RoutingSummary | None:
    """Return what the pretrained router did on a split, as the first run that keeps it says."""
    files = (base_routing_file(run, split) for run in runs)
    return next((summarise_routing([pd.read_parquet(file)]) for file in files if file.is_file()), None)


def write_comparison(
    comparison: Comparison,
    out: Path,
    *,
    title: str,
    lead: str = "",
    provenance: Mapping[str, Any] | None = None,
    pretrained: RoutingSummary | None = None,
    controls: Sequence[Control] = (),
) -> None:
    """Write a comparison's files.

    Args:
        comparison: The comparison.
        out: Folder of the files.
        title: Title of the page.
        lead: The claim.
        provenance: Where the figures come from.
        pretrained: The pretrained router's routing.
        controls: What controls came to, if there were some.
    """
    about = dict(provenance or {})
    opening = "\n\n".join([f"# {title}", *([lead] if lead else [])])
    files = {
        "report.html": render_report(
            comparison, title=title, lead=lead, provenance=about, pretrained=pretrained, controls=controls
        ),
        "table.md": f"{opening}\n\n{render_markdown(comparison)}{_controls_below(controls)}",
        "table.tex": wide(comparison).latex(),
        "table.csv": render_csv(comparison),
        "flips.csv": render_flips(comparison),
        "summary.json": json.dumps(
            about | summarise(comparison) | ({"controls": [asdict(one) for one in controls]} if controls else {}),
            indent=2,
            allow_nan=False,
        )
        + "\n",
    }
    for name, text in files.items():
        with published(out / name) as draft:
            draft.write_text(text, encoding="utf-8")


def _controls_below(controls: Sequence[Control]) -> str:
    return f"\n## Controls\n\n{control_table(controls).markdown()}\n" if controls else ""


def render_report(
    comparison: Comparison,
    *,
    title: str,
    lead: str = "",
    provenance: Mapping[str, Any] | None = None,
    pretrained: RoutingSummary | None = None,
    controls: Sequence[Control] = (),
) -> str:
    """Return the report as one HTML page that needs no other file and no network."""
    primary, arms = comparison.primary, comparison.challengers
    charts: dict[str, Chart] = entropy_charts(comparison, primary, pretrained)
    forest = {f"forest-{split}": label for split, label in comparison.splits.items()} if arms else {}
    charts |= {f"forest-{split}": forest_chart(comparison, split) for split in comparison.splits if arms}
    if (shift := shift_chart(comparison, primary)) is not None:
        charts["shift"] = shift
    subjects, usage = [], []
    for place, arm in enumerate(arms):
        if (found := arm.subjects[primary]) is not None:
            charts[f"subjects-{place}"] = subject_chart(found)
            few = len(found.table) <= FEW_SUBJECTS
            subjects.append((f"subjects-{place}", arm.name, subject_note(arm, primary), few))
    for place, (name, chart) in enumerate(usage_charts(comparison, primary).items()):
        routing = comparison.arms[name].routing[primary]
        charts[f"usage-{place}"] = chart
        usage.append((f"usage-{place}", name, f"{100 * routing.never_share:.0f} % never activated" if routing else ""))
    return render_page(
        "compare/report.html.jinja",
        {name: {"all": chart} for name, chart in charts.items()},
        [{"key": "all"}],
        title=title,
        lead=lead,
        comparison=comparison,
        tables=[
            {
                "label": label,
                "table": headline(comparison) if split == primary else further(comparison, split),
                "answers": answers(comparison, split),
                "opened": openings_line(comparison, split),
                "verdict": verdict(comparison, split),
                "method": method_line(comparison, split),
            }
            for split, label in comparison.splits.items()
        ],
        further_sets=non_inferiority_tables(comparison),
        routing_line=routing_line(comparison),
        beside=beside_tables(comparison),
        primary_label=comparison.splits[primary],
        forest=forest,
        subjects=subjects,
        entropy=[name for name in charts if name.startswith("entropy")],
        usage=usage,
        shift=shift is not None,
        controls=control_table(controls) if controls else None,
        about=[described(comparison, arm) for arm in comparison.arms.values()],
        provenance={key.replace("_", " "): one_line(value) for key, value in (provenance or {}).items()},
    )
