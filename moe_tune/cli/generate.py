"""The verb ``generate``: what base and tuned models say behind a prompt, side by side."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import output_folder
from moe_tune.cli.verbs import parsed
from moe_tune.generation.decoding import Decoding


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.usage = 'moe_tune generate RUN [RUN ...] "PROMPT" [options], or RUN [RUN ...] --prompts FILE [options]'
    parser.add_argument(
        "words", nargs="+", metavar="RUN", help="run directories, their names, or checkpoints; the prompt stands last"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a file of prompts instead: .txt, one a line, or .jsonl (prompt)"
    )
    parser.add_argument("--max_new_tokens", type=int, default=64, metavar="N", help="most tokens of a text (64)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token, above it one is drawn"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws; the same seed gives the same text (0)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of generate.html, .md, .json and the traces (default: generate/ in the run, or beside the last of "
        "several)",
    )
    parser.add_argument(
        "--runs_root", type=Path, default=Path("runs"), help="folder where runs are looked for by name (default: runs)"
    )


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print the texts of the base model and of each run, and write a page, Markdown, JSON and the traces."""
    given = parsed("generate", add_arguments, argv)
    names, prompt = _runs_and_prompt(given)
    how = Decoding(given.max_new_tokens, given.temperature, given.seed)
    # Imported here so that --help answers at once.
    from moe_tune.base.found import found_checkpoint
    from moe_tune.generation.prompts import read_prompts
    from moe_tune.generation.side_by_side import texts_side_by_side
    from moe_tune.generation.text_files import text_table, write_texts
    from moe_tune.reports.console import PlainConsole
    from moe_tune.settings.opened_runs import runs_to_open
    from moe_tune.settings.quiet import quieten

    quieten()
    prompts = read_prompts(given.prompts) if prompt is None else [prompt]
    found = [found_checkpoint(name, given.runs_root) for name in names]
    runs = runs_to_open(found, plugins)
    out = given.out or (runs[0].home if len(runs) == 1 else runs[-1].home.parent) / "generate"
    drawn = f"drawn at temperature {how.temperature:g}, seed {how.seed}" if how.temperature else "the likeliest"
    about = {
        "base": str(runs[0].asked.base.path),
        "runs": ", ".join(f"{one.name} (scope {one.asked.scope})" for one in runs),
        "tokens": f"{drawn}, at most {how.max_new_tokens}",
    }
    with output_folder(out):
        texts = texts_side_by_side(runs, prompts, how, runs[0].device)
        write_texts(texts, out, about)
    table = text_table(texts)
    console = PlainConsole()
    console.print(table.terminal())
    console.print(table.caption, soft_wrap=True)
    console.print(f"page, Markdown, JSON and traces: {out}/generate.html, .md, .json, trace-*", soft_wrap=True)
    return 0


def _runs_and_prompt(given: argparse.Namespace) -> tuple[list[str], str | None]:
    """Return the runs that were named, and the prompt where there is no file of prompts.

    Raises:
        ConfigError: There is no run or no prompt, a prompt beside a file of them, or one whose words are apart.
    """

    def is_run(word: str) -> bool:  # a long prompt is no path that pathlib would look for
        return any(os.path.isdir(os.path.join(root, word)) for root in ("", given.runs_root))

    words, last = given.words, given.words[-1]
    if given.prompts is not None:
        if len(words) > 1 and not is_run(last):
            raise ConfigError(
                f"expected runs beside --prompts but got {last!r}, which is none (generate). "
                "Hint: give a prompt or --prompts, not both."
            )
        return words, None
    names = words[:-1]
    if not names or is_run(last):
        raise ConfigError(
            f"expected runs and then a prompt but got {' '.join(words)} (generate). "
            'Hint: python -m moe_tune generate RUN "The capital of France is", or RUN --prompts FILE'
        )
    first = next((place for place, word in enumerate(names) if not is_run(word)), 0)
    if first and not any(" " in word for word in words[first:]):
        raise ConfigError(
            f"expected one prompt behind the runs but got {len(words) - first} words (generate). Hint: quote it: "
            f"python -m moe_tune generate {shlex.join([*words[:first], ' '.join(words[first:])])}"
        )
    return names, last
