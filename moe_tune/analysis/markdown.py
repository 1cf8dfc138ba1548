"""The analysis as Markdown: the claims, and under every setting the paper's tables, each with its method."""

from collections.abc import Iterator, Sequence

from moe_tune.analysis.columns import ReportTable
from moe_tune.analysis.findings import SCOPE_LABELS, Analysis
from moe_tune.analysis.report_tables import (
    activated_table,
    entropy_table,
    ranked_experts,
    sensitivity_table,
    spread_table,
    weights_table,
)

TABLES = {
    "Activated experts per layer": activated_table,
    "Entropy per layer": entropy_table,
    "Mean sorted weights per layer": weights_table,
    "Accuracy spread per layer": spread_table,
    "Best and worst experts per layer": ranked_experts,
}
WORDS = (
    "Routing statistics are associational: they describe which experts tokens went to and how the questions of those "
    "tokens were answered; they cannot say that an expert made an answer right or wrong."
)


def render_markdown(analysis: Analysis) -> str:
    """Return the analysis as Markdown.

    Args:
        analysis: What to write.
    """
    return "\n\n".join(_blocks(analysis)) + "\n"


def _blocks(analysis: Analysis) -> Iterator[str]:
    yield from (f"# {analysis.title}", analysis.lead, WORDS, *analysis.notes)
    yield "## Claims of the paper"
    header = ["claim", "scope", "verdict", "ours", "quoted, another model"]
    rows = [
        [
            claim["claim"],
            f"{SCOPE_LABELS.get(claim['scope'], claim['scope'])}, {claim['shots']}-shot",
            claim["verdict"],
            claim["ours"],
            claim["quoted"],
        ]
        for claim in analysis.claims
    ]
    yield _grid(header, rows, words=5)
    definitions = {f"{claim['claim']}: {claim['definition']}": None for claim in analysis.claims}
    yield "\n".join(f"- {definition}" for definition in definitions) or "No claim was tested."
    for setting in analysis.settings:
        part = analysis.at(setting)
        yield f"## {setting.label}"
        for title, make in TABLES.items():
            yield from _table(f"{title}: {setting.label}", make(part))
        if not part.sensitivity.empty:
            yield from _table(f"Under small changes of the input: {setting.label}", sensitivity_table(part))


def _table(title: str, table: ReportTable) -> Iterator[str]:
    yield f"### {title}"
    yield f"{table.caption} Evidence: {table.evidence}."
    yield _grid(
        [column.header.strip() for column in table.columns], [[text for text, _ in row] for row in table.rows()]
    )


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    rule = [":---" if place < words else "---:" for place in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
