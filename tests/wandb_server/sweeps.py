"""The points of a sweep: all of a grid, or draws without end, from a W&B sweep configuration."""

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any


def points(config: dict[str, Any], seed: int = 0) -> Iterator[dict[str, Any]] | list[dict[str, Any]]:
    """Return the points of a sweep: value by parameter; none for a method that needs a list of the test's own.

    Args:
        config: The sweep's configuration.
        seed: Of the draws of a random sweep.
    """
    parameters = config.get("parameters", {})
    if config["method"] == "grid":
        choices = [_choices(one) for one in parameters.values()]
        return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]
    if config["method"] == "random":
        return _draws(parameters, random.Random(seed))
    return []


def _choices(parameter: dict[str, Any]) -> list[Any]:
    if "parameters" in parameter:
        nested = points({"method": "grid", "parameters": parameter["parameters"]})
        return list(nested)
    return parameter["values"] if "values" in parameter else [parameter["value"]]


def _draws(parameters: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {name: _draw(one, draw) for name, one in parameters.items()}


def _draw(parameter: dict[str, Any], draw: random.Random) -> Any:
    if "min" not in parameter:
        if "parameters" in parameter:
            return {name: _draw(one, draw) for name, one in parameter["parameters"].items()}
        return draw.choice(_choices(parameter))
    low, high = parameter["min"], parameter["max"]
    match parameter["distribution"]:
        case "int_uniform":
            return draw.randint(low, high)
        case "uniform":
            return draw.uniform(low, high)
        case "log_uniform_values":
            return math.exp(draw.uniform(math.log(low), math.log(high)))
        case other:
            raise NotImplementedError(f"the test server does not draw from {other}")
