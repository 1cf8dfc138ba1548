"""The verb ``estimate``: memory, disk and time a configuration will need, before weights or data are loaded."""

import json
import math
import os
from typing import Any

import torch

from moe_tune.base.errors import require
from moe_tune.cli.verbs import add_format, parsed_with_fit
from moe_tune.models.shapes import model_shape
from moe_tune.planning.machine import data_sheet, measure
from moe_tune.planning.report import lines_of, report_of
from moe_tune.planning.split_sizes import splits_of


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--machine", type=str, default="here", help="here (a 10-second measurement), or a GPU such as H100"
    )
    add_format(parser)
    parser.add_argument("--questions", type=int, help="questions of each split, instead of counting them")
    parser.add_argument("--prompt_tokens", type=float, help="mean tokens of a prompt, instead of counting them")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print what a configuration will need."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")  # a dataset is read if it is here, and never downloaded
    fit = parsed_with_fit("estimate", add_arguments, argv, plugins)
    given = fit.settings
    for name, value in (("questions", given.questions), ("prompt_tokens", given.prompt_tokens)):
        counted = value is None or 1 <= value < math.inf
        require(counted, "at least 1", value, f"--{name}", "leave it out to have it counted.")
    dtype = getattr(torch, fit.model.base.dtype)
    shape = model_shape(fit.model.base)
    splits = splits_of(fit.datamodule, fit.model.base, shape, given.questions, given.prompt_tokens)
    if given.machine == "here":
        machine = measure(dtype, width=shape.width, inner=shape.inner)
    else:
        machine = data_sheet(given.machine, dtype)
    report = report_of(fit.model, fit.datamodule, shape, splits, machine)
    print(json.dumps(report, indent=2) if given.format == "json" else "\n".join(lines_of(report)))
    return 0
