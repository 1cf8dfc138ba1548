"""What is known of a fit before it runs: counts, bytes and seconds, and the way each split goes."""

from collections.abc import Iterator
from typing import Any

import torch

from moe_tune.data.module import QuizDataModule
from moe_tune.heads.base import BaseGate
from moe_tune.models.shapes import ModelShape
from moe_tune.planning.estimate import Costs, Split, peak_bytes
from moe_tune.planning.machine import MachineSpeed
from moe_tune.routing.layer_choice import choose_layers
from moe_tune.tuner.router_tuner import RouterTuner


def costs_of(tuner: RouterTuner, shape: ModelShape, machine: MachineSpeed) -> Costs:
    """Return the cost model of a tuner whose model is not loaded.

    Args:
        tuner: The tuner.
        shape: Its base model's sizes.
        machine: The machine's speed.
    """
    first = choose_layers(tuner.layer_choice, shape.moe_layers)[0]
    return Costs(shape, getattr(torch, tuner.base.dtype), first, machine)


def report_of(
    tuner: RouterTuner, quiz: QuizDataModule, shape: ModelShape, splits: dict[str, Split], machine: MachineSpeed
) -> dict[str, Any]:
    """Return everything that is known before a run, as plain values for JSON: counts, bytes and seconds.

    Args:
        tuner: The tuner; its model is not loaded.
        quiz: The quiz.
        shape: The base model's sizes.
        splits: The splits by name.
        machine: The machine's speed.
    """
    costs, settings = costs_of(tuner, shape, machine), tuner.answer_path
    on = tuner.scope == "answer" and settings.use != "never"
    layers = choose_layers(tuner.layer_choice, shape.moe_layers)
    gate = BaseGate(torch.zeros(shape.rule.num_experts, shape.width), shape.rule, layers[0])
    head = tuner.head.bound_to(gate)
    train, batch = splits["train"], quiz.batch_size
    share = settings.limit_gb * 1e9 / costs.cache_bytes(train)
    if on and settings.above_limit == "sample" and 0 < share < 1:
        train = train.part(share)
    again = tuner.base.gradient_checkpointing
    peak = peak_bytes(costs, train, batch, quiz.eval_batch_size, on, again)
    return {
        "machine": {"name": machine.name, "speed": machine.source, "memory_bytes": machine.memory},
        "parameters": {
            "total": shape.total,
            "active_per_token": shape.active,
            "trainable": len(layers) * sum(one.numel() for one in head.parameters() if one.requires_grad),
            "source": "published shape" if shape.published else "configuration",
        },
        "memory_bytes": {
            "weights": costs.weight_bytes,
            "activations_full_prompts": costs.training_bytes(batch, train.length, False, again),
            "activations_answer_path": costs.training_bytes(batch, train.length, True),
            "peak": peak,
            "fits": peak <= machine.memory,
        },
        "answer_path": {
            name: verdict(costs, split, settings.limit_gb, name, on, tuner) for name, split in splits.items()
        },
        "disk_bytes": {
            **{name: costs.cache_bytes(split) for name, split in splits.items()},
            "trunk": costs.trunk_bytes(splits["train"]),
        },
        "questions": {
            name: {"questions": split.questions, "prompt_tokens": split.length, "source": split.source}
            for name, split in splits.items()
        },
        "seconds": {
            **{f"prompt_pass_{name}": costs.pass_seconds(split) for name, split in {**splits, "train": train}.items()},
            "epoch_answer_path": costs.answer_seconds(train, batch, training=True),
            "epoch_full_prompts": costs.prompt_seconds(train, batch, training=True, recomputed=again),
            "evaluation_answer_path": costs.answer_seconds(splits["validation"], quiz.eval_batch_size),
            "evaluation_full_prompts": costs.prompt_seconds(splits["validation"], quiz.eval_batch_size),
        },
    }


def verdict(costs: Costs, split: Split, limit_gb: float, name: str, on: bool, tuner: RouterTuner) -> str:
    """Return in words what the answer path does with a split.

    Args:
        costs: The cost model.
        split: The split.
        limit_gb: ``answer_path.limit_gb``.
        name: Its name.
        on: Whether the answer path is on.
        tuner: The tuner.
    """
    if not on:
        return f"full prompts (scope {tuner.scope}, answer_path.use {tuner.answer_path.use})"
    size = costs.cache_bytes(split)
    if size <= limit_gb * 1e9:
        return f"cached: within {limit_gb:g} GB"
    if name != "train" or tuner.answer_path.above_limit == "stream":
        return f"streamed: its cache is above {limit_gb:g} GB"
    if tuner.answer_path.above_limit == "sample":
        fewer = split.part(limit_gb * 1e9 / size).questions
        return f"sample of about {fewer:,} questions: the cache of all is above {limit_gb:g} GB"
    fits = costs.first_layer > 0 and costs.trunk_bytes(split) <= limit_gb * 1e9
    return f"{'trunk cache' if fits else 'full prompts'}: the prompt cache is above {limit_gb:g} GB"


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yield what ``report_of`` returned as aligned lines."""
    machine, parameters, memory = report["machine"], report["parameters"], report["memory_bytes"]
    yield f"machine                  {machine['name']}; {machine['speed']}"
    for name in ("total", "active_per_token", "trainable"):
        note = f"  ({parameters['source']})" if name == "total" else ""
        yield f"parameters {name.replace('_', ' '):<17}{parameters[name]:>18,}{note}"
    for name, value in memory.items():
        if name != "fits":
            yield f"memory {name.replace('_', ' '):<26}{value / 1e9:>10.2f} GB"
    room = "fits" if memory["fits"] else "too small"
    yield f"memory of the machine            {machine['memory_bytes'] / 1e9:>10.2f} GB  ({room})"
    for name, split in report["questions"].items():
        lengths = f"{split['prompt_tokens']:.0f} tokens"
        yield f"questions {name:<12}{split['questions']:>9,} of {lengths}  ({split['source']})"
    for name, value in report["disk_bytes"].items():
        yield f"disk cache {name:<22}{value / 1e9:>10.2f} GB"
    for name, value in report["answer_path"].items():
        yield f"answer path {name:<12} {value}"
    for name, value in report["seconds"].items():
        yield f"time {name.replace('_', ' '):<28}{_duration(value):>12}"


def _duration(seconds: float) -> str:
    """Return seconds in the unit a person would use.

    Example:
        >>> _duration(5400)
        '1.5 h'
    """
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"
