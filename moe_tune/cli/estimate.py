"""The verb ``estimate``: memory, disk and time a configuration will need, before weights or data are loaded."""

import argparse
import json
import math
import os
from collections.abc import Iterable
from typing import Any

import torch

from moe_tune.answer_path.prefixes import shared_prefixes
from moe_tune.base.errors import ConfigError, ServiceError
from moe_tune.data.encoding import PromptedQuestion, PromptEncoder
from moe_tune.data.hub_mmlu import MMLU_SIZES, HubMMLU
from moe_tune.data.module import QuizDataModule
from moe_tune.data.question import Question
from moe_tune.data.splits import stratified_sample
from moe_tune.heads.base import BaseGate
from moe_tune.models.base_model import BaseModel
from moe_tune.models.shapes import ModelShape, model_shape
from moe_tune.planning.estimate import Costs, Split, peak_bytes
from moe_tune.planning.machine import MachineSpeed, data_sheet, measure
from moe_tune.routing.layer_choice import choose_layers
from moe_tune.settings.quiet import quieten
from moe_tune.settings.settings_cli import SettingsCLI
from moe_tune.tuner.router_tuner import RouterTuner

SAMPLE = 500
"""Prompts of a split that are encoded to learn their lengths."""
MMLU_TOKENS = 123.3
"""Mean tokens of a 0-shot prompt of MMLU's test split under the protocol lm_eval with OLMoE's tokenizer, as counted."""
SPLITS = ("train", "validation", "test")


def main(argv: list[str], plugins: dict[str, str] | None = None) -> int:
    """Print what a configuration will need; return 0.

    Args:
        argv: Arguments after the verb; what is not the verb's own is a fit's.
        plugins: sha256 of the user's plug-in files, by path.
    """
    parser = argparse.ArgumentParser(
        prog="moe_tune estimate", description="Memory, disk and time a fit will need.", allow_abbrev=False
    )
    parser.add_argument("--machine", default="here", help="here (a 10-second measurement), or a GPU such as H100")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="text for people, json for programs")
    parser.add_argument("--questions", type=int, help="questions of each split, instead of counting them")
    parser.add_argument("--prompt_tokens", type=float, help="mean tokens of a prompt, instead of counting them")
    given, rest = parser.parse_known_args(argv)
    for name, value in (("questions", given.questions), ("prompt_tokens", given.prompt_tokens)):
        if value is not None and not 1 <= value < math.inf:
            raise ConfigError(f"expected at least 1 but got {value} (--{name}). Hint: leave it out to have it counted.")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")  # a dataset is read if it is here, and never downloaded
    quieten()
    cli = SettingsCLI(rest, plugins)
    dtype = getattr(torch, cli.model.base.dtype)
    shape = model_shape(cli.model.base)
    splits = splits_of(cli.datamodule, cli.model.base, shape, given.questions, given.prompt_tokens)
    if given.machine == "here":
        machine = measure(dtype, width=shape.width, inner=shape.inner)
    else:
        machine = data_sheet(given.machine, dtype)
    report = report_of(cli.model, cli.datamodule, shape, splits, machine)
    if given.format == "json":
        print(json.dumps(report, indent=2))
    else:
        for line in lines_of(report):
            print(line)
    return 0


def costs_of(tuner: RouterTuner, shape: ModelShape, machine: MachineSpeed) -> Costs:
    """Return the cost model of a tuner whose model is not loaded.

    Args:
        tuner: The tuner.
        shape: Its base model's sizes.
        machine: The machine's speed.
    """
    return Costs(
        shape, getattr(torch, tuner.base.dtype), choose_layers(tuner.layer_choice, shape.moe_layers)[0], machine
    )


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


def splits_of(
    quiz: QuizDataModule, base: BaseModel, shape: ModelShape, questions: int | None, prompt_tokens: float | None
) -> dict[str, Split]:
    """Return the sizes of the splits: counted where the questions and the tokenizer are here, else as published.

    Args:
        quiz: The quiz.
        base: The base model, for its tokenizer.
        shape: Its sizes.
        questions: Questions of each split, instead.
        prompt_tokens: Mean tokens of a prompt, instead.
    """
    if questions is not None and prompt_tokens is not None:
        return {name: _flat(questions, prompt_tokens, "as given") for name in SPLITS}
    try:
        found = {name: quiz.splits.questions(name) for name in SPLITS}
        dev = quiz.splits.questions("dev") if quiz.few_shot else []
        prompts = {name: _prompts(quiz, base, shape, stratified_sample(found[name], SAMPLE), dev) for name in SPLITS}
    except ServiceError:
        if not isinstance(quiz.splits.source, HubMMLU):
            raise
        return _published(quiz, questions, prompt_tokens)
    return {name: split_of(prompts[name], questions or len(found[name]), prompt_tokens) for name in SPLITS}


def _prompts(
    quiz: QuizDataModule, base: BaseModel, shape: ModelShape, questions: list[Question], dev: Iterable[Question]
) -> list[PromptedQuestion]:
    examples: dict[str, list[Question]] = {}
    for one in dev:
        examples.setdefault(one.subject, []).append(one)
    most = quiz.max_length or shape.context
    encoder = PromptEncoder(base.load_tokenizer(), quiz.protocol, most, quiz.few_shot, examples)
    return encoder.encode(questions, quiz.on_bad_row).prompts


def split_of(prompts: list[PromptedQuestion], questions: int, prompt_tokens: float | None) -> Split:
    """Return a split as large as said, with the lengths of some of its prompts; a prefix is shared however many ask.

    Args:
        prompts: Some or all prompts of the split.
        questions: How many it has.
        prompt_tokens: Mean tokens of a prompt, instead of theirs.
    """
    if prompt_tokens is not None:
        return _flat(questions, prompt_tokens, "counted; tokens as given")
    shared = shared_prefixes(prompts)
    tokens = sum(len(one.ids_S) for one in prompts)
    own = sum(len(one.ids_S) - 1 - shared.length(place) for place, one in enumerate(prompts))
    times = questions / len(prompts)
    source = "counted" if times == 1 else f"tokens by a sample of {len(prompts)} prompts"
    return Split(questions, times * tokens, times * own + sum(map(len, shared.tokens_G)), source, len(shared.tokens_G))


def _flat(questions: int, tokens: float, source: str) -> Split:
    return Split(questions, questions * tokens, questions * (tokens - 1), source)


def _published(quiz: QuizDataModule, questions: int | None, prompt_tokens: float | None) -> dict[str, Split]:
    sizes = {**MMLU_SIZES, **quiz.splits.source.known_sizes}
    if quiz.splits.carved:
        sizes |= {"train": round(0.8 * sizes["validation"]), "validation": round(0.2 * sizes["validation"])}
    tokens = prompt_tokens or MMLU_TOKENS * (1 + quiz.few_shot)
    source = "published number; " + ("tokens as given" if prompt_tokens else f"{tokens:.0f} tokens a prompt assumed")
    return {
        name: _flat(questions or min(sizes[name], quiz.splits.limits.get(name, sizes[name])), tokens, source)
        for name in SPLITS
    }


def lines_of(report: dict[str, Any]) -> Iterable[str]:
    """Yield the report as aligned lines.

    Args:
        report: What ``report_of`` returned.
    """
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
