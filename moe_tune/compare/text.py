"""How well the arms of a comparison predict the documents of each text source beside the baseline."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moe_tune.base.errors import DataError
from moe_tune.compare.beside import compared_by_all, plain
from moe_tune.compare.runs import Run
from moe_tune.reports.table import Cell, Column, Table, interval, numbers, words
from moe_tune.stats.bootstrap import DRAWS
from moe_tune.stats.ratios import Floats
from moe_tune.stats.text_loss import MARGIN, TextResult, compare_text

TONES = {"better": "good", "kept": "even", "harmed": "bad", "open": "open"}

Texts = dict[str, dict[str, TextResult]]
"""Results by text source and by arm."""


def compare_texts(arms: Mapping[str, list[Run]], partners: Mapping[str, list[Run]]) -> tuple[Texts, tuple[str, ...]]:
    """Compare every arm with the baseline on each text source that all runs read.

    Args:
        arms: The runs of each arm by seed, the baseline first.
        partners: The baseline's runs that those of each arm are paired with: one, or one per seed.

    Returns:
        The results, and a sentence for each text that is not compared.

    Raises:
        DataError: Runs read different documents under one name, or cut them elsewhere.
    """

    def compared(arm: str, name: str) -> TextResult:
        first = arms[arm][0].texts[name]
        tokens_D, hashes = first["tokens"].to_numpy(dtype=np.int64), list(first["content_hash"])
        return compare_text(_sums(partners[arm], name), _sums(arms[arm], name), tokens_D, hashes)

    return compared_by_all(arms, lambda run: run.texts, ("text", "document"), require_same_documents, compared)


def require_same_documents(reference: Run, other: Run, name: str) -> None:
    """Refuse to compare runs that read other documents, or other tokens of them.

    Raises:
        DataError: They did.
    """
    ours, theirs = reference.texts[name].set_index("id")["tokens"], other.texts[name].set_index("id")["tokens"]
    differ = len(ours.index.symmetric_difference(theirs.index))
    if not differ:
        differ = int((ours != theirs.reindex(ours.index)).sum())
    if differ:
        raise DataError(
            f"expected the same {len(ours):,} documents, cut alike, but got {differ:,} that differ in content or "
            f"length ({reference.label} and {other.label}, {name}). "
            f"Hint: test both runs with one source, data.limit_test and max_tokens under data.test_sources."
        )


def _sums(runs: list[Run], name: str) -> Floats:
    return np.stack([(run.texts[name]["loss"] * run.texts[name]["tokens"]).to_numpy(dtype=np.float64) for run in runs])


def text_tables(texts: Texts, baseline: str) -> list[tuple[Table, str]]:
    """Return the table of each text source, and the sentence under it."""
    return [
        (_table(name, results, baseline), _method(name, results[baseline], baseline)) for name, results in texts.items()
    ]


def _table(name: str, results: Mapping[str, TextResult], baseline: str) -> Table:
    """Return the table of a text source, one row per arm; it is narrow enough for a terminal of 80 columns."""
    nothing = Cell("", float("nan"))  # the baseline is not compared with itself

    def compared(header: str, cells: list[Cell]) -> Column:
        pairs = zip(results, cells, strict=True)
        return Column(header, [nothing if arm == baseline else cell for arm, cell in pairs])

    every = list(results.values())
    decided = ["baseline" if arm == baseline else one.kept for arm, one in results.items()]
    return Table(
        [
            words("arm", list(results)),
            numbers("loss", [one.loss for one in every], ".4f"),
            compared("diff, nats", [Cell(f"{one.diff:+.4f}", one.diff) for one in every]),
            compared("ratio", [Cell(f"{one.ratio:.4f}", one.ratio) for one in every]),
            compared("95 % interval", [Cell(interval(*one.ratio_ci95, ".3f", 1), one.ratio_ci95[0]) for one in every]),
            words("text", decided, [TONES.get(word, "muted") for word in decided]),
        ],
        title=f"{name}: next-token loss, perplexity ratio",
    )


def _method(name: str, one: TextResult, baseline: str) -> str:
    return (
        f"{name}: loss of the next token over the second half of {one.documents:,} documents, {one.tokens:,} tokens, "
        f"nats per token, mean over seeds; difference to {baseline}, whose exponential is the ratio of perplexities; "
        f"95 % interval: paired bootstrap over documents, {DRAWS:,} draws, of these routers only. Better: the "
        f"ratio is below 1; kept: at most {MARGIN:g}; harmed: above; open: none is shown (one-sided, 5 %)."
    )


def summarise_texts(texts: Texts, arm: str) -> dict[str, Any]:
    """Return an arm's figures on every text as plain values; nothing where no text was read."""
    figures = {name: plain(by_arm[arm]) for name, by_arm in texts.items()}
    return {"text": figures} if figures else {}
