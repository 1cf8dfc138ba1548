"""The comparison's files: one self-contained HTML page, tables and the summary, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moe_tune.base.published import published
from moe_tune.compare.arms import group_arms
from moe_tune.compare.comparison import Arm, Comparison, compare_arms
from moe_tune.compare.figures import entropy_lines, forest_plot, subject_bars, usage_maps
from moe_tune.compare.runs import load_run
from moe_tune.compare.table import (
    further,
    headline,
    interval,
    method_line,
    points,
    render_csv,
    render_markdown,
    routing_line,
    summarise,
    verdict,
)
from moe_tune.reports.one_line import one_line
from moe_tune.stats.paired import PairedResult
from moe_tune.stats.standard_error import FEW_CLUSTERS

FEW_SUBJECTS = 12
"""With more, the figures by subject are folded but for the first."""


def compare_runs(baseline: Path, runs: list[Path], out: Path) -> Comparison:
    """Compare finished runs with a baseline run and write the comparison's files.

    They are ``report.html``, ``table.md``, ``table.csv`` and ``summary.json``.

    Args:
        baseline: Run directory of the baseline.
        runs: The other run directories; runs of one name and configuration are seeds of one arm.
        out: Folder for the files; made if missing, files of the same name are replaced.

    Raises:
        DataError: A run is incomplete, or the runs answered different questions.
    """
    loaded = {path.resolve(): load_run(path) for path in (baseline, *runs)}
    arms = group_arms(list(loaded.values()))
    first = loaded[baseline.resolve()]
    name = next(name for name, members in arms.items() if first in members)
    comparison = compare_arms(arms, name)
    write_comparison(comparison, out, title=f"Comparison with {name}")
    return comparison


def write_comparison(
    comparison: Comparison, out: Path, *, title: str, lead: str = "", provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a comparison's four files.

    Args:
        comparison: What to write.
        out: Folder for the files; made if missing.
        title: Heading of the report and the Markdown table.
        lead: Sentence under the heading, such as the claim.
        provenance: Date, commit, versions: joined to ``summary.json`` and printed at the report's foot.
    """
    about = dict(provenance or {})
    opening = "\n\n".join([f"# {title}", *([lead] if lead else [])])
    files = {
        "report.html": render_report(comparison, title=title, lead=lead, provenance=about),
        "table.md": f"{opening}\n\n{render_markdown(comparison)}",
        "table.csv": render_csv(comparison),
        "summary.json": json.dumps(about | summarise(comparison), indent=2, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        with published(out / name) as draft:
            draft.write_text(text, encoding="utf-8")


def render_report(
    comparison: Comparison, *, title: str, lead: str = "", provenance: Mapping[str, Any] | None = None
) -> str:
    """Return the report as one HTML page that needs no other file and no network.

    Args:
        comparison: What to show.
        title: Heading of the page.
        lead: Sentence under the heading.
        provenance: Names and values for the foot of the page; nested values are joined into one line.
    """
    primary = comparison.primary
    tables = []
    for split, label in comparison.splits.items():
        header, rows = headline(comparison) if split == primary else further(comparison, split)
        tables.append(
            {
                "label": label,
                "header": header,
                "rows": rows,
                "place": header.index("decision"),
                "verdict": verdict(comparison, split),
                "method": method_line(comparison, split),
            }
        )
    environment = Environment(
        loader=PackageLoader("moe_tune", "compare"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        lead=lead,
        comparison=comparison,
        arms=comparison.challengers,
        tables=tables,
        routing_line=routing_line(comparison),
        primary_label=comparison.splits[primary],
        forest=Markup(forest_plot(comparison)) if comparison.challengers else None,
        subjects=[item for arm in comparison.challengers if (item := _subject_item(arm, primary))],
        entropy=_markup(entropy_lines(comparison, primary)),
        usage=_markup(usage_maps(comparison, primary)),
        about=[_describe(comparison, arm) for arm in comparison.arms.values()],
        provenance={key.replace("_", " "): one_line(value) for key, value in (provenance or {}).items()},
    )


def _describe(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    manifest, result = arm.manifest, arm.results[comparison.primary]
    facts = {
        "head": manifest["head"],
        "scope": manifest["scope"],
        "layers": one_line(manifest["layers"]),
        "trainable": f"{manifest['trainable_parameters']:,} parameters",
        "seeds": ", ".join(map(str, result.seeds)),
        "runs": ", ".join(arm.runs),
    }
    if arm.name == comparison.baseline:
        return {"name": f"{arm.name} (baseline)", "facts": facts, "methods": [], "caveats": []}
    methods = [_method(comparison, arm, split) for split in comparison.splits]
    return {"name": arm.name, "facts": facts, "methods": methods, "caveats": _caveats(result)}


def _method(comparison: Comparison, arm: Arm, split: str) -> dict[str, str]:
    result = arm.results[split]
    counts = (
        f"{100 * result.discordance:.1f} % of answers differ; seed {result.median_seed} gained {result.n01:,} and lost "
        f"{result.n10:,}. After Holm's correction for {len(comparison.challengers)} arms p = {arm.p_holm[split]:.2g}."
    )
    if result.macro_diff is not None and result.macro_ci95 is not None:
        counts += f" Mean over subjects: {points(result.macro_diff)} {interval(result.macro_ci95)} points."
    return {"label": comparison.splits[split], "counts": counts, "method": result.method}


def _caveats(result: PairedResult) -> list[str]:
    caveats = []
    if len(result.seeds) == 1:
        caveats.append("One seed: the result speaks of this router only, not of the recipe that made it.")
    elif len(result.seeds) < 5:
        caveats.append(f"{len(result.seeds)} seeds: too few to judge the spread between seeds; five are the minimum.")
    if result.clusters < FEW_CLUSTERS:
        caveats.append(f"Only {result.clusters} different questions: the interval is rough.")
    if result.design_effect > 1.5:
        caveats.append(f"Repeated questions widen the variance {result.design_effect:.1f}-fold.")
    if result.decision == "inconclusive":
        caveats.append(
            f"Inconclusive is not equal: differences from {points(result.ci95[0])} to {points(result.ci95[1])} points "
            f"remain possible."
        )
    return caveats


def _subject_item(arm: Arm, split: str) -> dict[str, Any] | None:
    figure, found = subject_bars(arm, split), arm.subjects[split]
    if figure is None or found is None:
        return None
    note = (
        f"Spread between subjects: tau = {100 * found.tau:.2f} points, "
        f"I² = {100 * found.i_squared:.0f} %, Q = {found.q:.1f} (p = {found.q_p:.2g})."
    )
    few = len(found.table) <= FEW_SUBJECTS
    return {"name": arm.name, "figure": Markup(figure), "note": note, "few": few}


def _markup(figure: str | None) -> Markup | None:
    return None if figure is None else Markup(figure)
