"""Files of routes on one screen, or as plain values for JSON."""

from typing import Any

import pandas as pd

from moe_tune.analysis.route_files import agreement, shared_tokens, usage
from moe_tune.base.routes import Routes
from moe_tune.reports.table import Table, numbers, shares, words

ALL = "all"
"""The last row of an agreement: the mean over layers."""


def told_routes(files: list[Routes]) -> tuple[list[Table], dict[str, Any]]:
    """Return what one file or two say: tables, and the same as plain values.

    Raises:
        DataError: Two files do not go together.
    """
    tables, plain = [], []
    for routes in files:
        frame = usage(routes)
        tables.append(_usage_table(routes, frame))
        plain.append({"path": routes.path, **_sizes(routes), "layers": _records(frame)})
    if len(files) == 1:
        return tables, {"files": plain}
    one, other = files
    mine_N, theirs_N, questions = shared_tokens(one, other)
    frame = agreement(one, other, mine_N, theirs_N)
    told = {"questions": questions, "tokens": len(mine_N)}
    (mean,) = _records(frame.drop(columns="layer").mean().to_frame().T)
    return [*tables, _agreement_table(frame, told)], {
        "files": plain,
        "agreement": {**told, "layers": _records(frame), "mean": mean},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain values; what is not known is ``None``, which JSON has, and not NaN, which it has not."""
    rows = frame.to_dict("records")
    return [{str(key): None if pd.isna(value) else value for key, value in row.items()} for row in rows]


def _sizes(routes: Routes) -> dict[str, Any]:
    sizes = {"questions": len(routes.ids), "tokens": len(routes.token_N)}
    return {**sizes, "num_experts": routes.num_experts, "top_k": routes.top_k}


def _usage_table(routes: Routes, frame: pd.DataFrame) -> Table:
    sizes = _sizes(routes)
    model = f", {routes.top_k} of {routes.num_experts} experts" if routes.num_experts else ""
    title = f"{routes.path}: {sizes['questions']:,} questions, {sizes['tokens']:,} tokens{model}"
    columns = [
        words("layer", frame["layer"]),
        numbers("experts per token", frame["experts"], ".2f"),
        numbers("activated", frame["activated"]),
        numbers("load, largest over mean", frame["load_imbalance"], ".2f"),
        numbers("weight per token", frame["weight"], ".3f"),
    ]
    return Table(columns, title=title)


def _agreement_table(frame: pd.DataFrame, told: dict[str, int]) -> Table:
    mean = frame.drop(columns="layer").mean()
    every = pd.concat([frame.astype({"layer": object}), pd.DataFrame([{"layer": ALL, **mean}])], ignore_index=True)
    columns = [
        words("layer", every["layer"]),
        shares("tokens with another set, %", every["other_set"]),
        shares("overlap, %", every["overlap"]),
        numbers("weight moved", every["moved"], ".4f"),
    ]
    return Table(columns, title=f"agreement: {told['questions']:,} questions and {told['tokens']:,} tokens in both")
