"""What a sweep found: results.csv, best.yaml, a plot of parallel coordinates, and what each parameter explains."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_tune.base.published import published
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.runs.directory import to_yaml
from moe_tune.studies.sweep_file import Sweep
from moe_tune.studies.sweep_points import SweepPoint

BLOCKS = ("model", "data", "trainer")
"""Keys whose parts are told apart in an overlay; any other is taken as a whole."""


def write_report(
    sweep: Sweep, folder: Path, points: list[SweepPoint], plugins: Iterable[str]
) -> tuple[pd.DataFrame, Path | None]:
    """Write all files of the report; return what each parameter explains, and the best overlay's path."""
    results = results_table(sweep, folder, points)
    # What a failed run came to before it failed is no result.
    ended = results[results["status"] != "failed"].dropna(subset=[sweep.metric])
    explained = explained_share(sweep, ended)
    texts = {"results.csv": results.to_csv(index=False), "explained.csv": explained.to_csv(index=False)}
    if len(ended):
        ranked = ended.sort_values(sweep.metric, ascending=not sweep.maximised, kind="stable")
        texts["parallel.html"] = _parallel_coordinates(sweep, ended)
        texts["best.yaml"] = _overlay(sweep, folder, points[int(ranked["point"].iloc[0])], plugins)
    for name, text in texts.items():
        with published(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return explained, folder / "best.yaml" if len(ended) else None


def results_table(sweep: Sweep, folder: Path, points: list[SweepPoint]) -> pd.DataFrame:
    """Return a row per point: its parameters, how it ended, its epochs, and the value that it is judged by."""
    rows = []
    for point in points:
        run = point.run(folder)
        row: dict[str, Any] = {"point": point.index, "status": point.status, **point.values}
        row["epochs"] = len(point.history(folder, sweep.metric))
        row[sweep.metric] = point.value(folder, sweep.metric)
        rows.append(row | {"run": str(run.relative_to(folder)) if run else "", "note": point.note})
    return pd.DataFrame(rows)


def explained_share(sweep: Sweep, results: pd.DataFrame) -> pd.DataFrame:
    """Return how much of the metric's spread each parameter explains by itself, by a regression on it alone.

    Associational: a search chooses its points by what it has seen, and parameters may stand in for one another.

    Formula: R^2 of y = a + b x + c x^2 for numbers (x in logarithms if searched in them), of the means by value
        otherwise; adjusted = 1 - (1 - R^2) (n - 1) / (n - p), p the terms with the constant, below 0 set to 0.
    """
    import statsmodels.api as sm

    rows = []
    ended = results.dropna(subset=[sweep.metric])
    for name in sweep.parameters:
        values = ended[name]
        distinct = values.astype(str).nunique()
        if distinct < 2:
            continue
        if pd.api.types.is_numeric_dtype(values) and distinct > 3:
            scale = np.log10(values) if _searched_in_logarithms(sweep, name) else values
            terms = np.vander((scale - scale.mean()) / scale.std(), 3)
        else:
            terms = pd.get_dummies(values.astype(str), dtype=float).to_numpy()
        fit = sm.OLS(ended[sweep.metric].to_numpy(float), terms, hasconst=True).fit()
        spread = fit.centered_tss > 0
        adjusted = max(0.0, float(fit.rsquared_adj)) if fit.df_resid > 0 and spread else np.nan
        share = float(fit.rsquared) if spread else np.nan
        rows.append({"parameter": name, "points": len(ended), "values": distinct, "share": share, "adjusted": adjusted})
    columns = ["parameter", "points", "values", "share", "adjusted"]
    return pd.DataFrame(rows, columns=columns).sort_values("adjusted", ascending=False, ignore_index=True)


def _searched_in_logarithms(sweep: Sweep, name: str) -> bool:
    return "log" in str(sweep.parameters[name].get("distribution", ""))


def _parallel_coordinates(sweep: Sweep, ended: pd.DataFrame) -> str:
    """Return one HTML page that needs no network."""
    import plotly.graph_objects as go

    axes = []
    for name in (*sweep.parameters, sweep.metric):
        values = ended[name]
        if not pd.api.types.is_numeric_dtype(values):
            codes, texts = pd.factorize(values.astype(str), sort=True)
            axes.append({"label": name, "values": codes, "tickvals": list(range(len(texts))), "ticktext": list(texts)})
        elif name != sweep.metric and _searched_in_logarithms(sweep, name):
            axes.append({"label": f"log10 {name}", "values": np.log10(values)})
        else:
            axes.append({"label": name, "values": values})
    colours = {"color": ended[sweep.metric], "colorscale": "Viridis", "showscale": True}
    figure = go.Figure(go.Parcoords(dimensions=axes, line=colours))
    figure.update_layout(title=f"{sweep.file.name}: {len(ended)} points", margin={"t": 110})
    return str(figure.to_html(include_plotlyjs=True, div_id="parallel"))


def _overlay(sweep: Sweep, folder: Path, best: SweepPoint, plugins: Iterable[str]) -> str:
    """Return the blocks of the best run's configuration that the sweep varied, as a file to put on top of its base."""
    run = best.run(folder)
    resolved = load_yaml(run / "config.yaml") if run else {}
    overlay: dict[str, Any] = {}
    for key in sweep.parameters:
        top, _, rest = key.partition(".")
        if top in BLOCKS and rest:
            part = rest.partition(".")[0]
            overlay.setdefault(top, {})[part] = resolved[top][part]
        else:
            overlay[top] = resolved[top]
    value = best.value(folder, sweep.metric)
    head = f"# Best of {sweep.file.name}: point {best.index}, {sweep.metric} {value}, chosen on validation.\n"
    return f"{head}# {sweep.best_command(folder / 'best.yaml', plugins)}\n{to_yaml(overlay)}"
