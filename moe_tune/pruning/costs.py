"""What a model costs: size on disk, memory, speed, and the seconds of a training step."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.routing import ScoringRule
from moe_tune.tuner.opening import OpenModel

BATCHES, REPEATS, STEPS = 4, 3, 5
"""Batches of a timed pass; passes, of which the fastest counts; timed steps, of which the median counts."""

Numerics = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What a model costs.

    Attributes:
        experts: Experts of a layer that a token can choose from; where layers differ, their mean.
        top_k: Experts of a token.
        disk_bytes: Size of its weights' files.
        memory_bytes: Size of its weights in memory, in the dtype they are loaded in.
        tokens_per_second: Real tokens of whole prompts, forward alone: the fastest of three passes.
        step_seconds: Forward, backward and optimiser step of a router in every layer, one batch of whole training
            prompts: the median of five.
        device: Where it was timed.
    """

    experts: float
    top_k: int
    disk_bytes: int
    memory_bytes: int
    tokens_per_second: float
    step_seconds: float
    device: str


def measured_costs(opened: OpenModel, quiz: QuizDataModule, disk_bytes: int | None, numerics: Numerics) -> ModelCosts:
    """Return what a model costs as it is; its heads are off it afterwards.

    Args:
        opened: The model; a head that masks experts saves neither size nor time.
        quiz: Its questions.
        disk_bytes: Size of its files; ``None`` takes the weights' in memory.
        numerics: Gives the context of a forward pass, such as autocast.
    """
    gated = opened.gated
    gated.model.set_experts_implementation(opened.pass_experts)
    tensors = [*gated.model.parameters(), *gated.model.buffers()]
    memory = sum(one.numel() * one.element_size() for one in tensors)
    left = [_left(gate.rule if gate.head is None else gate.head.allowed(gate.rule)) for gate in gated.gates.values()]
    speed = _tokens_per_second(gated, list(islice(quiz.loader("validation"), BATCHES)), numerics)
    seconds = _step_seconds(opened, quiz, numerics)
    device = torch.cuda.get_device_name(gated.device) if gated.device.type == "cuda" else gated.device.type
    size = memory if disk_bytes is None else disk_bytes
    return ModelCosts(sum(left) / len(left), gated.rule.top_k, size, memory, speed, seconds, device)


def size_on_disk(folder: str) -> int | None:
    """Return the size of a folder's safetensors files in bytes; ``None`` where there are none."""
    files = list(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else []
    return sum(one.stat().st_size for one in files) if files else None


def _left(rule: ScoringRule) -> int:
    return rule.num_experts if rule.barred_E is None else int((~rule.barred_E).sum())


@torch.no_grad()
def _tokens_per_second(gated: GatedModel, batches: Sequence[Batch], numerics: Numerics) -> float:
    given = [one.to(gated.device) for one in batches]
    tokens = sum(int(one.attention_mask_BS.sum()) for one in given)
    times = []
    for _ in range(REPEATS):
        start = _now(gated.device)
        for one in given:
            with numerics():
                gated(one.input_ids_BS, one.attention_mask_BS)
        times.append(_now(gated.device) - start)
    return tokens / min(times)


def _step_seconds(opened: OpenModel, quiz: QuizDataModule, numerics: Numerics) -> float:
    """Return the seconds of a training step of a router that is put before the head that is there."""
    batch, gated = next(iter(quiz.loader("train"))), opened.gated
    ids_BS, mask_BS = (one[: quiz.batch_size].to(gated.device) for one in (batch.input_ids_BS, batch.attention_mask_BS))
    gated.detach()
    heads = Stack({"trained": RetunedHead(), "kept": opened.asked.head})
    trained = GatedModel(gated.model, gated.family, heads, "all", "all", gated.routing_dtype)
    try:
        trained.train(True)
        optimiser = torch.optim.AdamW(trained.trainable().values(), lr=0.0)  # nothing is to be learned
        times = []
        for _ in range(STEPS + 1):  # the first allocates
            start = _now(trained.device)
            with numerics():
                logits_BV = trained(ids_BS, mask_BS).float()
                loss = functional.cross_entropy(logits_BV, logits_BV.detach().argmax(-1))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            times.append(_now(trained.device) - start)
        return median(times[1:])
    finally:
        trained.detach()


def _now(device: torch.device) -> float:
    """Return the time once the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
