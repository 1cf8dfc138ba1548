"""The verb ``fit``, and how Lightning's other verbs are run."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path


def lightning_verb(verb: str) -> Callable[[list[str], dict[str, str]], int]:
    """Return what runs one of Lightning's verbs; for all but ``fit`` a first word may be a run or its bare name."""

    def main(argv: list[str], plugins: dict[str, str]) -> int:
        from moe_tune.settings.running import run

        named = verb != "fit" and bool(argv) and not argv[0].startswith("-")
        ran = run([verb, *(_of_run(argv) if named else argv)], plugins)
        if ran.before:
            print(f"already complete: {ran.path}. Hint: --fresh true runs it again.")
        return 0

    return main


def _of_run(argv: list[str]) -> list[str]:
    from moe_tune.runs.found import ROOT, found_checkpoint

    pairs = [*(word.partition("=")[::2] for word in argv), *pairwise(argv)]
    root = next((Path(value) for name, value in pairs if name == "--runs_root" and value), ROOT)
    return ["--ckpt_path", str(found_checkpoint(argv[0], root)), *argv[1:]]


main = lightning_verb("fit")
