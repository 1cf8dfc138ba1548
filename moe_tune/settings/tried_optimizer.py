"""Trying a configured optimiser and its scheduler on one number, before anything is loaded."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.cli import instantiate_class

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.trusted import is_allowed

STEPS = 3
"""Steps that a scheduler is tried for."""
LEAST = {"step_size": 1, "T_max": 1, "T_0": 1, "T_mult": 1, "total_iters": 0, "patience": 0, "cooldown": 0}
"""The smallest value of whole numbers that torch's schedulers do not look at."""
FAULTS = (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError, AssertionError, KeyError, IndexError)
"""What torch raises for settings that it does not take."""


def refuse_untaken(settings: Any) -> None:
    """Refuse an optimiser or a scheduler whose settings torch does not take, or whose numbers mean nothing.

    Args:
        settings: The parsed arguments of a fit.

    Raises:
        ConfigError: One is refused.
    """
    optimizer, scheduler = (_plain(settings.get(key)) for key in ("optimizer", "lr_scheduler"))
    for key, init in (("optimizer", optimizer), ("lr_scheduler", scheduler)):
        for name, value in _numbers(init):
            require(
                math.isfinite(value), "a finite number", value, f"{key}.init_args.{name}", "1.0e-3 is usual for lr."
            )
            least = LEAST.get(name, -math.inf)
            require(value >= least, f"at least {least}", value, f"{key}.init_args.{name}", f"{least} or more.")
    if optimizer is None or not is_allowed(str(optimizer["class_path"])):
        return
    rate = optimizer["init_args"].get("lr")
    hint = "1.0e-3 is usual for routers."
    require(
        not isinstance(rate, float | int) or rate > 0, "a learning rate above 0", rate, "optimizer.init_args.lr", hint
    )
    made = _tried("optimizer", optimizer, _stepped)
    plateau = scheduler is not None and str(scheduler["class_path"]).endswith("ReduceLROnPlateau")
    if scheduler is not None and not plateau and is_allowed(str(scheduler["class_path"])):
        rates = _tried("lr_scheduler", scheduler, lambda init: _rates(init, made))
        hint = "look at its factors and lengths."
        where = f"lr_scheduler.init_args, {scheduler['class_path']}"
        require(all(0 <= one < math.inf for one in rates), "learning rates of at least 0", rates, where, hint)


def _stepped(init: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return an optimiser that has made a step; the parameter is a matrix, as a router's weight is."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    made: torch.optim.Optimizer = instantiate_class(([weight],), dict(init))

    def loss() -> float:
        weight.grad = torch.ones_like(weight)
        return 1.0

    made.step(loss)
    return made


def _rates(init: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rates of the first steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is trained here
        scheduler = instantiate_class((optimizer,), dict(init))
        rates = []
        for _ in range(STEPS):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            scheduler.step()
    return [*rates, float(optimizer.param_groups[0]["lr"])]


def _tried(key: str, init: dict[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return make(init)
    except FAULTS as fault:
        guilty = _guilty(init, make)
        came = f"{init['init_args'].get(guilty)!r}: " if guilty else ""
        where = f"{key}.init_args{f'.{guilty}' if guilty else ''}"
        raise ConfigError(
            f"expected settings that {str(init['class_path']).rpartition('.')[2]} takes but got "
            f"{came}{' '.join(str(fault).split()) or type(fault).__name__} ({where}). "
            f"Hint: python -m moe_tune fit --{key}.help {init['class_path']} explains them."
        ) from fault


def _guilty(init: dict[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> str | None:
    """Return the option without which there is no fault."""
    for name in init["init_args"]:
        rest = {key: value for key, value in init["init_args"].items() if key != name}
        try:
            make(init | {"init_args": rest})
        except FAULTS:
            continue
        return str(name)
    return None


def _plain(init: Any) -> dict[str, Any] | None:
    if init is None:
        return None
    arguments = init.get("init_args")
    return {"class_path": init.class_path, "init_args": {} if arguments is None else arguments.as_dict()}


def _numbers(init: dict[str, Any] | None) -> Iterator[tuple[str, float]]:
    for name, value in ({} if init is None else init["init_args"]).items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield name, one
