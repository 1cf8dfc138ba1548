"""What is known of a fit before it runs: counts, bytes and seconds, and the way each split goes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.filesize import decimal

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach, Way, decide_way, with_heads
from moe_tune.data.module import QuizDataModule
from moe_tune.heads.base import BaseGate
from moe_tune.models.shapes import ModelShape, adapter_parameters
from moe_tune.planning.estimate import Costs, Split, peak_bytes
from moe_tune.planning.machine import MachineSpeed
from moe_tune.routing.layer_choice import choose_layers
from moe_tune.tuner.router_tuner import RouterTuner


def costs_of(tuner: RouterTuner, shape: ModelShape, machine: MachineSpeed) -> Costs:
    """Return the cost model of a tuner whose model is not loaded."""
    first = choose_layers(tuner.layer_choice, shape.moe_layers)[0]
    return Costs(shape, getattr(torch, tuner.base.dtype), first, machine, tuner.base.quantise)


def report_of(
    tuner: RouterTuner, quiz: QuizDataModule, shape: ModelShape, splits: dict[str, Split], machine: MachineSpeed
) -> dict[str, Any]:
    """Return everything that is known before a run, as plain values for JSON: counts, bytes and seconds."""
    costs, batch = costs_of(tuner, shape, machine), quiz.batch_size
    layers = choose_layers(tuner.layer_choice, shape.moe_layers)
    gate = BaseGate(torch.zeros(shape.rule.num_experts, shape.width), shape.rule, layers[0])
    trainable = len(layers) * sum(one.numel() for one in tuner.head.bound_to(gate).parameters() if one.requires_grad)
    if tuner.peft:
        trainable += adapter_parameters(tuner.base, tuner.peft)
    refusals = with_heads([tuner.head], shape.refusals)
    reach = Reach.of(layers, tuner.scope, bool(tuner.peft), tuner.losses, refusals)
    ways = {
        name: _way(name, split, costs, replace(reach, cloze=quiz.is_cloze(name)), tuner.answer_path)
        for name, split in splits.items()
    }
    way, train, _ = ways["train"]
    again = tuner.base.gradient_checkpointing
    on = way in (Way.CACHED, Way.STREAMED)
    peak = peak_bytes(costs, train, batch, quiz.eval_batch_size, on, again)
    return {
        "model": tuner.base.path,
        "machine": {"name": machine.name, "speed": machine.source, "memory_bytes": machine.memory},
        "parameters": {
            "total": shape.total,
            "active_per_token": shape.active,
            "trainable": trainable,
            "source": "published shape" if shape.published else "configuration",
        },
        "memory_bytes": {
            "weights": costs.weight_bytes,
            "activations_full_prompts": costs.training_bytes(batch, train, False, again),
            "activations_answer_path": costs.training_bytes(batch, train, True),
            "logits": costs.logit_bytes(batch, train, training=True),
            "peak": peak,
            "fits": peak <= machine.memory,
        },
        "answer_path": {name: words for name, (_, _, words) in ways.items()},
        "disk_bytes": {
            **{name: costs.cache_bytes(split) for name, split in splits.items()},
            **({} if shape.refusals.trunk else {"trunk": costs.trunk_bytes(splits["train"])}),
        },
        "questions": {
            name: {
                "questions": split.questions,
                "prompt_tokens": split.length,
                "choice_tokens": split.choice_tokens,
                "source": split.source
                + "; choices' tokens not counted" * (quiz.is_cloze(name) > bool(split.choice_tokens)),
            }
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


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a split's caches would take; what is on disk already is not looked at."""

    questions: int
    prompt_bytes: float
    trunk_bytes: float
    kept: bool = False


def _way(name: str, split: Split, costs: Costs, reach: Reach, settings: AnswerPath) -> tuple[Way, Split, str]:
    """Return how a split goes by the run's own rule, the split or the sample that is trained on, and words for it."""
    every = split
    while True:
        sizes = _Sizes(split.questions, costs.cache_bytes(split), costs.trunk_bytes(split))
        decision = decide_way(name, reach, settings, sizes)
        if decision.sample is None:
            break
        split = split.part(decision.sample / split.questions)
    above = f"{settings.limit_gb:g} GB"
    if decision.way is Way.CACHED and split is not every:
        words = f"sample of about {split.questions:,} questions: the cache of all is above {above}"
    elif decision.way is Way.CACHED:
        words = f"cached: within {above}"
    elif decision.way is Way.STREAMED:
        words = f"streamed: its cache is above {above}"
    elif settings.use in ("never", "trunk"):
        words = f"{decision.way}: answer_path.use {settings.use}"
    elif reach.why_not:
        words = f"{decision.way}: {reach.why_not}"
    else:
        words = f"{decision.way}: the prompt cache is above {above}"
    return decision.way, split, words


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yield what ``report_of`` returned as aligned lines."""
    machine, parameters, memory = report["machine"], report["parameters"], report["memory_bytes"]
    yield f"model                    {report['model']}"
    yield f"machine                  {machine['name']}; {machine['speed']}"
    for name in ("total", "active_per_token", "trainable"):
        note = f"  ({parameters['source']})" if name == "total" else ""
        yield f"parameters {name.replace('_', ' '):<17}{parameters[name]:>18,}{note}"
    for name, value in memory.items():
        if name != "fits":
            yield f"memory {name.replace('_', ' '):<26}{decimal(int(value), precision=2):>13}"
    room = "fits" if memory["fits"] else "too small"
    yield f"memory of the machine            {decimal(int(machine['memory_bytes']), precision=2):>13}  ({room})"
    for name, split in report["questions"].items():
        scored = f", {split['choice_tokens']:.0f} rows of logits" if split["choice_tokens"] else ""
        lengths = f"{split['prompt_tokens']:.0f} tokens{scored}"
        yield f"questions {name:<12}{split['questions']:>9,} of {lengths}  ({split['source']})"
    for name, value in report["disk_bytes"].items():
        yield f"disk cache {name:<22}{decimal(int(value), precision=2):>13}"
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
