"""lm-eval's evaluator on base and tuned in one go, its files written as it writes them itself."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker

from moe_tune.base.errors import ConfigError, ResourceError, did_you_mean
from moe_tune.harness.gated_lm import GatedLM
from moe_tune.harness.kept_tasks import KeptTasks, unloaded
from moe_tune.settings.opened_runs import RunToOpen, opened_runs

NAMED = (
    *("tasks", "num_fewshot", "limit", "samples", "system_instruction", "apply_chat_template", "gen_kwargs"),
    *("fewshot_as_multiturn", "confirm_run_unsafe_code", "metadata", "batch_size", "max_batch_size"),
)
"""What of lm-eval's configuration its evaluator takes by the same name; the rest follows."""
CACHED = ("cache_requests", "rewrite_requests_cache", "delete_requests_cache")
SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedArm:
    """What lm-eval found of one model.

    Attributes:
        name: The base model's or the run's.
        results: lm-eval's results, without its samples.
        samples: Its file of samples of each task.
    """

    name: str
    results: Mapping[str, Any]
    samples: Mapping[str, Path]


def evaluate_runs(runs: Sequence[RunToOpen], config: Any, out: Path, device: torch.device) -> list[EvaluatedArm]:
    """Return what lm-eval found of the base model, without heads, and of each run, with the same tasks and batches.

    Each arm's ``results_<date>.json`` and ``samples_<task>_<date>.jsonl`` lie in a folder of its own, as lm-eval's
    ``--output_path`` and ``--log_samples`` lay them.

    Args:
        runs: Runs of one base model.
        config: lm-eval's ``EvaluatorConfig``.
        out: The folder.
        device: Where the model is to be.

    Raises:
        ConfigError: A task is unknown, or asks what a run's head cannot serve.
        DataError: A task's data cannot be had, or a prompt does not fit the context.
        ModelError: A checkpoint is not intact, or was made for another base model.
        ResourceError: A file could not be written.
    """
    logging.getLogger("lm_eval").setLevel(os.environ.get("LMEVAL_LOG_LEVEL", "ERROR").upper())
    tasks = KeptTasks(_manager(config), _without_prompt(runs))
    path = runs[0].asked.base.path
    base = Path(path).resolve().name
    arms: list[EvaluatedArm] = []
    for run, opened in opened_runs(runs, device):
        tokenizer = run.asked.base.load_tokenizer()
        sizes = {"batch_size": config.batch_size, "max_batch_size": config.max_batch_size}
        for name in [*([] if arms else [base if base != run.name else f"{base}-base"]), run.name]:
            model = GatedLM(opened.gated, tokenizer, tasks, base_path=path, base_only=not arms, **sizes)
            arms.append(_evaluated(model, name, config, out))
    return arms


def _evaluated(model: GatedLM, name: str, config: Any, out: Path) -> EvaluatedArm:
    tracker = EvaluationTracker(output_path=str(out))
    try:
        results = simple_evaluate(
            model,
            model_args={"pretrained": name},  # what lm-eval names folder and results by
            device=str(model.device),
            evaluation_tracker=tracker,
            task_manager=model.tasks,
            **{key: getattr(config, key) for key in NAMED},
            **{key: config.cache_requests.get(key, False) for key in CACHED},
            **dict(zip(SEEDS, config.seed or [None] * len(SEEDS), strict=True)),
        )
    except Exception as fault:  # the border of lm-eval: what fails before any model was asked is a fault of the tasks
        if model.tasks.asked:
            raise
        raise unloaded(fault, " ".join(map(str, config.tasks))) from fault
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return EvaluatedArm(name, results, dict(_written(tracker, samples, out)))


def _written(tracker: EvaluationTracker, tasks: Mapping[str, Any], out: Path) -> Iterator[tuple[str, Path]]:
    """Yield the file of each task's samples: lm-eval says of what it could not write nothing but a warning."""
    folder = out / str(tracker.general_config_tracker.model_name_sanitized)
    for task in tasks:
        file = folder / f"samples_{task}_{getattr(tracker, 'date_id', 'unwritten')}.jsonl"
        if not file.is_file():
            raise ResourceError(f"expected lm-eval to write its samples but there is no {file}. Hint: another --out.")
        yield task, file


def _manager(config: Any) -> Any:
    try:
        return config.process_tasks(config.metadata)
    except ValueError as fault:
        from lm_eval.tasks import TaskManager

        known = TaskManager(include_path=config.include_path).all_tasks
        missing = str(fault).rpartition(": ")[2].split(", ")[0]
        hint = did_you_mean(missing, known).partition("Available")[0]
        raise ConfigError(
            f"expected tasks of lm-eval but there is none called {missing!r} (--tasks). Hint: {hint}`lm-eval ls tasks` "
            "names them; --include_path FOLDER adds your own."
        ) from fault


def _without_prompt(runs: Sequence[RunToOpen]) -> str | None:
    for run in runs:
        if run.asked.scope == "answer":
            return f"{run.name} acts at scope answer, from the last prompt token on"
        if run.asked.head.chooses():
            return f"the head of {run.name} decides at the last prompt token whether it acts"
    return None
