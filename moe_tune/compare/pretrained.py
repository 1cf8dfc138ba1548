"""A run beside the pretrained router, whose answers to the same questions the run keeps."""

from dataclasses import replace
from pathlib import Path

from moe_tune.base.errors import DataError
from moe_tune.compare.charts import PRETRAINED
from moe_tune.compare.comparison import Comparison, compare_arms
from moe_tune.compare.report import write_comparison
from moe_tune.compare.runs import (
    Run,
    evaluation_command,
    load_run,
    read_questions,
    read_routing,
    read_short_answers,
    read_texts,
)
from moe_tune.compare.setting import setting_of
from moe_tune.runs.answers import BASE, base_routing_file, questions_file, tested_questions_file


def compare_with_pretrained(path: Path, out: Path, *, bootstrap: bool = False) -> Comparison:
    """Compare a finished run with the pretrained router and write the comparison's files.

    Raises:
        DataError: The run is incomplete, or of before runs kept what the pretrained router answers.
    """
    run = load_run(path)
    arms = {PRETRAINED: [pretrained(run)], run.name: [_as_tested(run)]}
    comparison = compare_arms(arms, PRETRAINED, bootstrap=bootstrap)
    title = f"{run.name} and the pretrained router"
    write_comparison(comparison, out, title=title, provenance=setting_of(arms, comparison))
    return comparison


def pretrained(run: Run) -> Run:
    """Return the pretrained router's answers as those of a run without a head.

    Raises:
        DataError: They are missing, unreadable or incomplete.
    """
    asked = [split for split in run.questions if split.startswith("test")] or list(run.questions)
    questions, routing = {}, {}
    for split in asked:
        file, command = questions_file(run.path, split, BASE), evaluation_command(run.path, run.manifest, split)
        if not file.is_file():
            raise DataError(
                f"expected the pretrained router's answers beside the run's but got none ({file}): an earlier version "
                f"made the run. Hint: `{command}` adds them, and so does `fit` with --fresh true; or name a second run."
            )
        questions[split] = read_questions(file, f"run `{command}`.")
        routing[split] = read_routing(base_routing_file(run.path, split), f"run `{command}`.")
    manifest = {**run.manifest, "name": PRETRAINED, "head": "none", "layers": [], "trainable_parameters": 0}
    texts, short = (read(run.path, run.manifest, BASE) for read in (read_texts, read_short_answers))
    return replace(run, manifest=manifest, questions=questions, routing=routing, texts=texts, short_answers=short)


def _as_tested(run: Run) -> Run:
    """Return the run with the validation answers of the checkpoint that is tested."""
    file = tested_questions_file(run.path, "validation")
    if not file.is_file():
        return run
    remedy = f"run `{evaluation_command(run.path, run.manifest, 'validation')}`."
    return replace(run, questions={**run.questions, "validation": read_questions(file, remedy)})
