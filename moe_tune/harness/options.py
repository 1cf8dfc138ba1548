"""lm-eval's own options on our command line, with their own types, and its configuration made of them."""

import argparse
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, require

PASSED = (
    *("tasks", "num_fewshot", "limit", "samples", "batch_size", "max_batch_size", "device", "gen_kwargs"),
    *("apply_chat_template", "system_instruction", "fewshot_as_multiturn", "include_path", "metadata", "seed"),
    *("cache_requests", "confirm_run_unsafe_code"),
)
"""Options that are passed on. Left out are those about the model, which is a run's, and about where results go; and
``use_cache``, which would answer for one model what another has said."""


def add_lm_eval_options(parser: argparse.ArgumentParser) -> None:
    """Add lm-eval's options to a parser, as lm-eval itself declares them."""
    from lm_eval._cli.run import Run

    theirs = argparse.ArgumentParser()
    run = Run(theirs.add_subparsers())
    group = parser.add_argument_group("options of lm-eval")
    for action in run._parser._actions:
        if action.dest in PASSED:
            action.required = action.dest == "tasks"
            group._add_action(action)


def lm_eval_config(given: argparse.Namespace, out: Path) -> Any:
    """Return lm-eval's ``EvaluatorConfig`` of the options that were given.

    Args:
        given: The parsed arguments, lm-eval's among them.
        out: Where results go.

    Raises:
        ConfigError: lm-eval refuses an option, or two together.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    _refuse_out_of_range(given)
    theirs = {name: value for name, value in vars(given).items() if name in PASSED}
    try:
        return EvaluatorConfig.from_cli(argparse.Namespace(**theirs, output_path=str(out), log_samples=True))
    except (ValueError, TypeError) as fault:
        raise ConfigError(
            f"expected options that lm-eval takes but got: {' '.join(str(fault).split())} (lm-eval). "
            "Hint: python -m moe_tune lm-eval --help"
        ) from fault


def device_of(word: str) -> Any:
    """Return a device that is there.

    Raises:
        ConfigError: There is none of that name.
    """
    import torch

    try:
        return torch.empty(0, device=word).device
    except (RuntimeError, AssertionError) as fault:
        said = str(fault).partition("\n")[0]
        raise ConfigError(
            f"expected a device of this machine but got {word!r}: {said} (--device). Hint: --device cpu."
        ) from fault


def _refuse_out_of_range(given: argparse.Namespace) -> None:
    """Refuse what lm-eval finds only after the model was loaded, says in other words, or passes over."""
    limit, folder, batch = given.limit, given.include_path, str(getattr(given, "batch_size", 1))
    require(limit is None or limit > 0, "documents from 1, or a share", limit, "--limit", "leave it out for all.")
    sized = not batch.lstrip("-").isdigit() or int(batch) >= 1
    require(sized, "a batch of at least 1", batch, "--batch_size", "--batch_size 8.")
    there = folder is None or Path(folder).is_dir()
    require(there, "a folder of tasks", folder, "--include_path", "check the path.")
