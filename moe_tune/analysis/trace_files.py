"""A prompt's trace as files: one page, one picture, and the rows behind them."""

from collections.abc import Mapping
from pathlib import Path

from moe_tune.analysis.prompt_trace import TUNED, PromptTrace, token_label
from moe_tune.base.published import published
from moe_tune.reports.page import render_page
from moe_tune.reports.table import Table, numbers, shares, words

CHANGES = (
    "Changed: share of the pretrained routers' experts, over all layers, that the tuned ones did not choose. Moved: "
    "share of the weight that went to other experts. "
)
ENTROPY = "Entropy: over all experts, mean over layers, in nats."


def token_table(seen: PromptTrace) -> Table:
    """Return the small table of a trace, one row per token."""
    frame, tuned = seen.table(), TUNED in seen.routers
    named = [words("token", [token_label(token) for token in frame["token"]])]
    changes = [shares(f"{name}, %", frame[name]) for name in ("changed", "moved") if tuned]
    entropies = [numbers(f"entropy, {router}", frame[f"entropy_{router}"], ".3f") for router in seen.routers]
    caption = f"{CHANGES if tuned else ''}{ENTROPY}"
    return Table([*named, *changes, *entropies], caption, "How each token was routed")


def continuation_table(seen: PromptTrace) -> Table:
    """Return the likeliest next tokens of the pretrained and of the tuned routers, side by side."""
    rows = seen.continuations
    columns = []
    for router in seen.routers:
        own = rows[rows["router"] == router]
        columns += [
            words(router, [token_label(one) for one in own["token"]]),
            shares(f"{router}, %", own["probability"]),
        ]
    return Table(columns, title="Likeliest next tokens")


def write_trace(seen: PromptTrace, out: Path, about: Mapping[str, str]) -> None:
    """Write ``trace.html``, ``trace.png`` and ``trace.csv`` to a folder.

    Args:
        seen: The trace.
        out: The folder.
        about: What the page tells of the model and the prompt.
    """
    charts = seen.charts()
    pairs = {
        f"{layer}-{router}": {"all": chart}
        for layer, pair in charts.items()
        for router, chart in zip(seen.routers, pair, strict=True)
    }
    page = render_page(
        "analysis/trace.html.jinja",
        pairs,
        [{"key": "all"}],
        title="Trace of a prompt",
        lead=about["prompt"],
        tokens=token_table(seen),
        continuations=continuation_table(seen),
        layers=list(charts),
        routers=seen.routers,
        about=about,
    )
    with published(out / "trace.html") as draft:
        draft.write_text(page, encoding="utf-8")
    with published(out / "trace.csv") as draft:
        seen.routing.to_csv(draft, index=False, lineterminator="\n")
    with published(out / "trace.png") as draft:
        seen.picture(draft)
