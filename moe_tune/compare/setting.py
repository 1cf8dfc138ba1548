"""What a comparison's page says of where its figures come from: the data, the protocols, how the arms differ."""

from collections.abc import Mapping
from typing import Any

from moe_tune.compare.arms import differing
from moe_tune.compare.comparison import Comparison
from moe_tune.compare.runs import Run
from moe_tune.settings.config_files import differences

SHOWN = 12
"""Differing keys that are told of an arm."""


def setting_of(arms: Mapping[str, list[Run]], comparison: Comparison) -> dict[str, str]:
    """Return the data, the protocol of each split, and what each arm's configuration differs in from the baseline's."""
    reference = arms[comparison.baseline][0]
    told = {"data": _data(reference)} if "source" in reference.manifest.get("data", {}) else {}
    told["protocols"] = "; ".join(f"{split}: {_protocol(reference, split)}" for split in comparison.splits)
    told |= {
        f"{name} is": _data(runs[0]) for name, runs in arms.items() if runs[0].outside and runs[0] is not reference
    }
    for name, runs in arms.items():
        if lines := _differences(reference, runs[0]):
            more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            told[f"{name} differs in"] = "; ".join(lines[:SHOWN] + more)
    return told


def _data(run: Run) -> str:
    read = run.manifest["data"]
    further = [f"{name}: {_source(one['source'])}" for name, one in read.get("test_sources", {}).items()]
    return "; ".join([_source(read["source"]), *further])


def _source(source: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{key} {value}" for key, value in source.get("arguments", {}).items())
    return f"{source['class']}{f' ({arguments})' if arguments else ''}, {source['revision']}"


def _protocol(run: Run, split: str) -> str:
    prompts = run.manifest.get("data", {}).get("prompts", {}).get(split, {})
    shots = f", {prompts['few_shot']} worked examples" if "few_shot" in prompts else ""
    return f"{run.manifest['protocols'].get(split, 'not recorded')}{shots}"


def _differences(reference: Run, other: Run) -> list[str]:
    if reference.path == other.path or reference.outside or other.outside:  # the run's pretrained router, or a log
        return []
    keys = differing(reference, other)
    lines = differences(reference.config, other.config)
    return [
        line
        for line in lines
        if any(key == (own := line.partition(":")[0]) or key.startswith(f"{own}.") for key in keys)
    ]
