"""Texts side by side as a table for the terminal, and as files: a page, Markdown, JSON and the traces."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_tune.analysis.prompt_trace import BASE
from moe_tune.analysis.trace_files import write_trace
from moe_tune.base.published import published, write_json
from moe_tune.generation.side_by_side import TRACED, PromptTexts, of_models, plain
from moe_tune.reports.page import render_page
from moe_tune.reports.table import Column, Table, words

PARTS = "‖"
CAPTION = (
    f"{PARTS}: from here on the text is another than the base's; shared: tokens before that. ⏎ is a line break. Each "
    "model goes on from what it has said itself: behind the first other token they answer different texts."
)


def text_table(found: Sequence[PromptTexts]) -> Table:
    """Return the texts, a row per prompt: the base's, and each run's with a mark where it parts from that."""
    columns: list[Column] = [words("prompt", [_line(one.prompt) for one in found])]
    for name, heading in of_models(found):
        if name == BASE:
            columns.append(words(BASE, [_line(one.said[BASE].text) for one in found]))
            continue
        columns.append(words(heading, [_line(PARTS.join(_marked(one, name))) for one in found]))
        shared = [(one.shared(name), len(one.said[name].ids)) for one in found]
        told = [f"all {tokens}" if count is None else f"{count} of {tokens}" for count, tokens in shared]
        columns.append(words("shared", told))
    return Table(columns, CAPTION, "Texts side by side")


def write_texts(found: Sequence[PromptTexts], out: Path, about: Mapping[str, str]) -> None:
    """Write ``generate.html``, ``.md`` and ``.json``, and of the first prompts a trace of each model's text.

    Args:
        found: The texts.
        out: The folder; traces lie in ``trace-<prompt, from 1>-<model>/`` below it.
        about: What the files tell of the models and how tokens were chosen.
    """
    pictures: dict[str, dict[str, str]] = {}
    for number, one in enumerate(found, start=1):
        for name, seen in one.traces.items():
            folder = f"trace-{number}-{name}"
            write_trace(seen, out / folder, {"prompt": f"{one.prompt}{one.said[name].text}", **about, "text of": name})
            image = base64.b64encode((out / folder / "trace.png").read_bytes()).decode()
            pictures.setdefault(str(number), {})[name] = image
    table = text_table(found)
    page = render_page(
        "generation/generate.html.jinja",
        {},
        [{"key": "all"}],
        title="Texts side by side",
        lead="",
        caption=table.caption,
        found=found,
        models=list(of_models(found)),
        pictures=pictures,
        traced=TRACED,
        about=about,
    )
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    with published(out / "generate.html") as draft:
        draft.write_text(page, encoding="utf-8")
    with published(out / "generate.md") as draft:
        draft.write_text(f"# {table.title}\n\n{table.markdown()}\n\n{table.caption}\n\n{facts}\n", encoding="utf-8")
    write_json(out / "generate.json", plain(found, about))


def _marked(one: PromptTexts, name: str) -> Sequence[str]:
    return one.halves[name] if one.shared(name) is not None else one.halves[name][:1]


def _line(text: str) -> str:
    return text.replace("\n", "⏎").strip()
