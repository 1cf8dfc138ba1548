"""The analysis on one screen: accuracy, which claims hold at which setting, how many experts never fire."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from moe_tune.analysis.findings import TONES, Analysis
from moe_tune.analysis.report import accuracies
from moe_tune.analysis.report_tables import rankable
from moe_tune.reports.table import DASH, Table, words

WIDTH = 78
"""Columns a claim's own line may take."""


def print_terminal(console: Console, analysis: Analysis, out: Path) -> None:
    """Print one screen, at least 80 columns wide, and where the files are: a path is never folded."""
    console.print(render_terminal(analysis))
    console.print(f"files: {out}/report.html, report.md, summary.json, *.csv, *.parquet", soft_wrap=True)


def render_terminal(analysis: Analysis) -> Group:
    """Return one screen for a rich console of at least 80 columns."""
    claims = list(dict.fromkeys(str(claim["claim"]) for claim in analysis.claims))
    named = [Text(_cut(f"{number}  {claim}")) for number, claim in enumerate(claims, start=1)]
    scores = [Text(_cut(f"accuracy {shots}: {text}")) for shots, text in accuracies(analysis).items()]
    return Group(
        Text(_cut(analysis.title), style="bold"),
        Text(_cut(analysis.lead, 2 * WIDTH)),
        *scores,
        *(Text(_cut(f"answers {shots}: {text}")) for shots, text in analysis.about.get("answers", {}).items()),
        *named,
        _verdicts(analysis, claims).terminal(),
        *_never(analysis),
        _gate(analysis),
        *_ends(analysis),
        Text("Routing statistics are associational.", style="dim"),
    )


def _verdicts(analysis: Analysis, claims: list[str]) -> Table:
    settings = analysis.settings
    found = {(one["shots"], one["scope"], str(one["claim"])): str(one["verdict"]) for one in analysis.claims}
    columns = [words("scope", [one.scope for one in settings]), words("shots", [one.shots for one in settings])]
    for number, claim in enumerate(claims, start=1):
        verdicts = [found.get((one.shots, one.scope, claim), DASH) for one in settings]
        columns.append(words(str(number), verdicts, [TONES.get(verdict, "muted") for verdict in verdicts]))
    return Table(columns)


def _never(analysis: Analysis) -> Iterator[Text]:
    """Yield one line per setting over whole prompts or answers: the share that never fired, and both bounds."""
    for setting in analysis.settings:
        if setting.scope not in ("answer", "all"):
            continue
        layers = analysis.at(setting).layers
        one, every = (100 * layers[f"never_bound_{which}"].max() for which in ("one", "all"))
        share, where = 100 * layers["never_share"].mean(), f"{setting.scope} {setting.shots}-shot"
        yield Text(f"never fired, {where}: {share:.1f} % of experts; bound {one:.2g} % (one), {every:.2g} % (all)")


def _gate(analysis: Analysis) -> Text:
    """Say at the first setting how even the gate is by layer, and how many experts are flagged."""
    first = analysis.settings[0]
    part = analysis.at(first)
    share = 100 * part.layers["entropy_topk_share"]
    flagged, every = int(part.experts["flagged"].sum()), len(part.experts)
    return Text(
        f"gate, {first.scope} {first.shots}-shot: {share.min():.1f} to {share.max():.1f} % of the top-k entropy's "
        f"maximum\naccuracy beyond subject and chance: {flagged} of {every:,} experts flagged"
    )


def _ends(analysis: Analysis) -> Iterator[Text]:
    """Name at the first setting the best and the worst expert of those that are flagged: the others may be chance."""
    part = analysis.at(analysis.settings[0])
    named = rankable(part)[0]
    named = named[named["flagged"].astype(bool)]
    for end, rows in (("best", named[named["subject_gap"] > 0]), ("worst", named[named["subject_gap"] < 0])):
        if len(rows):
            one = rows.sort_values(["shrunk", "layer", "expert"], ascending=[end == "worst", True, True]).iloc[0]
            low, high = (f"{100 * one[f'shrunk_{which}']:.1f}" for which in ("low", "high"))
            yield Text(
                f"  {end} of them: layer {one['layer']} expert {one['expert']}, {100 * one['shrunk']:.1f} % "
                f"[{low}, {high}] of {one['questions']:,} questions, shrunk"
            )


def _cut(text: str, width: int = WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
