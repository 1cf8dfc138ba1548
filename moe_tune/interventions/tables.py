"""The tables of an audit, for the terminal, the page and Markdown."""

from collections.abc import Callable, Mapping

import pandas as pd

from moe_tune.interventions.audit import Audit
from moe_tune.interventions.bridge import METRICS
from moe_tune.interventions.effects import ALPHA, INTERVENTIONAL
from moe_tune.reports.table import DASH, Cell, Column, Table, interval, intervals, numbers, p_value, words

DONE = {
    "mask": "masked: it can never be chosen, the next best steps in, probabilities are shared by the rest",
    "drop": "dropped: it is chosen as ever and adds nothing; all other weights stay",
    "mean": "replaced by its mean: it says what it says on average to the tokens that choose it",
    "swap": "forced in, in the place of the lowest-ranked expert that was chosen",
}
"""What happens to an expert, in words."""
SCOPES = {
    "answer": "It happens at the answer token alone; all other tokens are routed as ever, so that nothing here says "
    "what pruning would do: that takes --scope all.",
    "all": "It happens at every token of the prompts.",
}
BOTH = "associational against interventional"
SHORT = {
    "usage": "usage",
    "mean weight": "weight",
    "weight if chosen": "if chosen",
    "saliency": "saliency",
    "accuracy": "acc.",
    "weighted accuracy": "weighted",
    "shrunk accuracy": "shrunk",
    "risk difference": "risk d.",
}
"""The metrics in the terminal."""
LEAST = 0.01
"""Nats from which a change is worth a look."""
TOP = 10
"""Experts in the table of the terminal."""
METHOD = (
    "Change against the untouched model on the same questions, with 95 % intervals (t with cluster-robust standard "
    "error, questions of equal content one cluster). Log-probability: of the right letter among the letters, in nats. "
    "KL: of the letters, untouched against this. Routed: questions whose answer token it acts on, and the change over "
    "them alone. p: that the mean change of log-probability is 0, after Holm's correction over all rows. Reference: "
    "the middle 90 % of the same done to experts of like usage in the same layer."
)


def experts_table(audit: Audit, top: int | None = None) -> Table:
    """Return the experts by the size of their effect, the largest first.

    Args:
        audit: The audit.
        top: How many; ``None`` is all.
    """
    frame = audit.experts.iloc[audit.experts["log_prob"].abs().argsort()[::-1]].head(top or len(audit.experts))
    first = [numbers("layer", frame["layer"]), numbers("expert", frame["expert"])]
    title = f"Experts, {audit.asked.kind}, scope {audit.asked.scope}"
    if top is not None and top < len(audit.experts):
        title = f"{title}: the {top} of {len(audit.experts):,} that change most"
    return Table([*first, *_effects(frame, short=top is not None)], METHOD, title, INTERVENTIONAL)


def layers_table(audit: Audit) -> Table:
    """Return what all experts of a layer add together."""
    frame = audit.layers
    caption = (
        "All routed experts of a layer dropped at once: what they add together, each layer by itself. p after Holm's "
        "correction over the layers."
    )
    columns = [numbers("layer", frame["layer"]), *_effects(frame, short=True)]
    return Table(columns, caption, f"Layers, all experts dropped, scope {audit.asked.scope}", INTERVENTIONAL)


def sets_table(audit: Audit, *, short: bool = False) -> Table:
    """Return the named sets, and what each does beyond its experts one by one.

    Args:
        audit: The audit.
        short: Leave out which experts they are, the change of accuracy and the reference.
    """
    frame = audit.sets
    columns = [
        Column("set", [Cell(name) for name in frame["set"]], left=True),
        *([] if short else [words("experts", frame["experts"])]),
        numbers("log-prob.", frame["log_prob"], "+.4f"),
        _range("95 % interval", frame["log_prob_low"], frame["log_prob_high"]),
        *([] if short else [numbers("acc., points", frame["accuracy"], "+.2f", 100)]),
        *([] if short else [_range("reference", frame["reference_low"], frame["reference_high"])]),
        numbers("singles", frame["sum_of_singles"], "+.4f"),
        numbers("interaction", frame["interaction"], "+.4f"),
        _range("95 % interval ", frame["interaction_low"], frame["interaction_high"]),
    ]
    caption = (
        "Interaction: the set's change of log-probability less the sum of those of its experts one by one; single "
        f"effects need not add. {METHOD}"
    )
    title = f"Sets, {audit.asked.kind}, scope {audit.asked.scope}"
    return Table(columns, caption, title, INTERVENTIONAL)


def bridge_table(audit: Audit, *, short: bool = False) -> Table:
    """Return the rank correlations, a row per layer and a column per metric.

    Args:
        audit: The audit.
        short: Leave intervals out, and mark those that do not hold 0.
    """
    frame = audit.bridge
    columns = [numbers("layer", list(dict.fromkeys(frame["layer"])))]
    for name in METRICS:
        own, cells = frame[frame["metric"] == name], []
        for one, low, high in zip(own["spearman"], own["low"], own["high"], strict=True):
            ends = (" *" if low > 0 or high < 0 else "") if short else f" {interval(low, high, '+.2f', 1)}"
            cells.append(Cell(DASH if one != one else f"{one:+.2f}{ends}", one))
        columns.append(Column(SHORT[name] if short else name, cells))
    told = "; ".join(f"{name}: {what}" for name, what in METRICS.items())
    caption = (
        f"Spearman's rank correlation over the layer's experts of what is observed with the size of the effect "
        f"({audit.asked.kind}, absolute mean change of log-probability), 95 % percentile intervals of "
        f"{audit.asked.draws:,} draws of questions. Ranks of noisy effects correlate less than those of the true ones. "
        f"{told}."
    )
    return Table(columns, caption, "Rank correlation of what is observed with the effect", BOTH)


def patches_table(audit: Audit) -> Table:
    """Return what router decisions change when they are copied from one model into the other."""
    frame = audit.patches
    layers = ["all" if layer < 0 else str(layer) for layer in frame["layer"]]
    columns = [
        Column("copied", [Cell(direction) for direction in frame["direction"]], left=True),
        Column("layer", [Cell(layer) for layer in layers]),
        numbers("log-prob.", frame["log_prob"], "+.4f"),
        _range("95 % interval", frame["log_prob_low"], frame["log_prob_high"]),
        numbers("acc.", frame["accuracy"], "+.2f", 100),
        intervals("95 % interval ", frame["accuracy_low"], frame["accuracy_high"], "+.2f"),
        numbers("share", frame["share"], ".0f", 100),
    ]
    caption = (
        "Experts and weights that one model's routers have decided, copied into the other model, layer by layer, and "
        "those of all layers together. Accuracy in points. Share: of what copying all layers changes, in per cent; "
        "shares need not add up."
    )
    return Table(columns, caption, f"Router decisions copied, scope {audit.asked.scope}", INTERVENTIONAL)


TABLES: Mapping[str, tuple[Callable[[Audit], Table], Callable[[Audit], pd.DataFrame]]] = {
    "experts": (experts_table, lambda audit: audit.experts),
    "layers": (layers_table, lambda audit: audit.layers),
    "sets": (sets_table, lambda audit: audit.sets),
    "bridge": (bridge_table, lambda audit: audit.bridge),
    "patches": (patches_table, lambda audit: audit.patches),
}
"""Tables by name, each with the rows it is made of; one without rows is left out."""


def tables_of(audit: Audit, *, short: bool = False) -> dict[str, Table]:
    """Return the tables that have rows; short ones fit a terminal."""
    made = {name: make for name, (make, rows) in TABLES.items() if len(rows(audit))}
    if not short:
        return {name: make(audit) for name, make in made.items()}
    narrow = {
        "experts": lambda: experts_table(audit, TOP),
        "sets": lambda: sets_table(audit, short=True),
        "bridge": lambda: bridge_table(audit, short=True),
    }
    return {name: narrow[name]() if name in narrow else make(audit) for name, make in made.items()}


def lead(audit: Audit) -> list[str]:
    """Return what the audit comes to, in sentences."""
    frame, asked = audit.experts, audit.asked
    sure_E = frame["p_claim"] < ALPHA
    claimed, screened = int(sure_E.sum()), int((frame["p_screen"] < ALPHA).sum())
    seen = int((sure_E & (frame["log_prob"].abs() >= LEAST)).sum())
    beyond = int((frame["p_reference"] <= ALPHA).sum())
    most = frame.iloc[int(frame["log_prob"].abs().to_numpy().argmax())]
    ends = interval(most["log_prob_low"], most["log_prob_high"], "+.4f", 1)
    return [
        f"Each of {len(frame):,} experts was {DONE[asked.kind]}. {SCOPES[asked.scope]}",
        f"After Holm's correction over all, {claimed} of them change the right letter's log-probability, {seen} of "
        f"these by {LEAST:g} nats or more: a change may be sure and tiny. At a false discovery rate of {ALPHA:.0%} it "
        f"is {screened} (a screening, no claim). {beyond} change it more than any of the experts "
        f"of like usage that they were held against. Largest: expert {int(most['expert'])} of layer "
        f"{int(most['layer'])}, {most['log_prob']:+.4f} {ends} nats, accuracy {100 * most['accuracy']:+.2f} "
        f"{interval(most['accuracy_low'], most['accuracy_high'])} points (n = {int(most['questions']):,}).",
    ]


def _effects(frame: pd.DataFrame, *, short: bool) -> list[Column]:
    p_holm = Column("p, Holm", [Cell(DASH if p != p else p_value(p), p) for p in frame["p_claim"]])
    columns = [
        numbers("log-prob.", frame["log_prob"], "+.4f"),
        _range("95 % interval", frame["log_prob_low"], frame["log_prob_high"]),
        numbers("acc., points", frame["accuracy"], "+.2f", 100),
    ]
    if short:
        return [*columns, numbers("KL", frame["kl"], ".4f"), numbers("routed", frame["treated"]), p_holm]
    return [
        *columns,
        intervals("95 % interval ", frame["accuracy_low"], frame["accuracy_high"], "+.2f"),
        numbers("KL", frame["kl"], ".4f"),
        _range("95 % interval  ", frame["kl_low"], frame["kl_high"], ".4f"),
        numbers("routed", frame["treated"]),
        numbers("log-prob., routed", frame["log_prob_treated"], "+.4f"),
        _range("95 % interval   ", frame["log_prob_treated_low"], frame["log_prob_treated_high"]),
        p_holm,
        Column("p, BH", [Cell(DASH if p != p else p_value(p), p) for p in frame["p_screen"]]),
        _range("reference", frame["reference_low"], frame["reference_high"]),
    ]


def _range(header: str, low: "pd.Series[float]", high: "pd.Series[float]", form: str = "+.4f") -> Column:
    return intervals(header, low, high, form, 1)
