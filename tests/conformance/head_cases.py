"""Which heads, in which modes, the conformance tests hold to the contract, and what they measure of a model."""

import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import moe_tune.heads  # noqa: F401 (finds the heads)
from moe_tune.base.errors import ConfigError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.base.schedule import ScheduleKind
from moe_tune.heads.base import RouterHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.models.families import families_with_files

FROM_RUNS = ("MeanOfRuns", "RoutesHead")
"""Heads made of runs or files on disk, which are of one model's sizes: tests of their own hold them to the laws."""
HEADS = {
    name: kind
    for name, kind in concrete_subclasses(RouterHead).items()
    if kind.__module__.startswith("moe_tune") and name not in FROM_RUNS
}


def inner_heads():
    """Return one of every other head, in an order a stack takes; of those that exclude each other, the first."""
    kinds = [kind for name, kind in HEADS.items() if name not in REQUIRED]
    parts = {}
    for kind in sorted(kinds, key=lambda kind: not kind().traits.replaces_logits):
        try:
            Stack({**parts, kind.__name__: kind()}).mixer()
        except ConfigError:
            continue
        parts[kind.__name__] = kind()
    return parts


REQUIRED = {
    "Stack": lambda: {"parts": inner_heads()},
    "FixedKHead": lambda: {"k": {0: 1, 1: 5}},  # fewer than K, more, and in any other layer as many
    "DroppedExperts": lambda: {"experts": {0: [2], 1: [0], 2: [5, 1]}},
    "SwappedExpert": lambda: {"experts": {0: 2, 2: 5}},
    "MaskedExperts": lambda: {"experts": {0: [2], 1: [0], 2: [5, 1]}},
    "Guard": lambda: {"head": RetunedHead()},
    "Strength": lambda: {"head": RetunedHead(), "strength": 0.6},
}
"""Arguments of the heads that cannot be built without any."""

FURTHER = {"FixedKHead": [{"renormalise": True}]}
"""Settings worth a test beside those that are a choice of words."""


def required(kind):
    return REQUIRED[kind.__name__]() if kind.__name__ in REQUIRED else {}


def modes(kind):
    """Return the settings of a head worth a test: its defaults, and every other value of each choice."""
    found = [{}]
    hints = get_type_hints(kind.__init__)
    found += FURTHER.get(kind.__name__, [])
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if get_origin(hints.get(name)) is Literal and hints[name] != ScheduleKind:
            found += [{name: value} for value in get_args(hints[name]) if value != parameter.default]
    return found


CASES = [(kind, mode) for kind in HEADS.values() for mode in modes(kind)]
IDS = ["-".join([kind.__name__, *(f"{key}={value}" for key, value in mode.items())]) for kind, mode in CASES]
each_head = pytest.mark.parametrize(("kind", "mode"), CASES, ids=IDS)
FAMILIES = [*families_with_files()]
EVERYWHERE = ("IdentityHead", "RetunedHead", "Stack")
"""Heads of which every law is asked in every family."""


def take_turns(cases, ids, names=(), values=((),)):
    """Ask a law of each case once per value, in families that take turns: with two values, in both scoring rules."""
    rows = []
    for turn, (case, told) in enumerate(zip(cases, ids, strict=True)):
        for place, value in enumerate(values):
            for shift in range(len(FAMILIES) if case[0].__name__ in EVERYWHERE else 1):
                family = FAMILIES[(turn + place + shift) % len(FAMILIES)]
                rows.append(pytest.param(*case, family, *value, id="-".join([told, family, *map(str, value)])))
    return pytest.mark.parametrize(("kind", "mode", "family", *names), rows, indirect=["family"])


each_head_in_turn = take_turns(CASES, IDS)


def shake(routers, seed=0, by=0.3):
    """Move every tensor of the heads away from its exact start; whole numbers (counts) stay."""
    draw = torch.Generator().manual_seed(seed)
    moved = {
        name: value + by * torch.randn(value.shape, generator=draw) if value.is_floating_point() else value
        for name, value in routers.state().items()
    }
    routers.load_state(moved, "test")


def in_its_mode(routers, head):
    """Put heads that act in training alone into training, from one seed; the others stay in evaluation."""
    parts = [part for part in head.modules() if isinstance(part, RouterHead)]
    if any(part.traits.train_only for part in parts):
        torch.manual_seed(7)
        for bound in routers.heads.values():
            bound.train()


def answers(model, batch):
    """Return the logits at each question's answer position."""
    mask_BS = batch["attention_mask"]
    last_B = torch.where(mask_BS.bool(), torch.arange(mask_BS.shape[1]), -1).amax(1)
    return model(**batch).logits[torch.arange(len(mask_BS)), last_B]


def decisions(routers, scope="all"):
    """Return what every layer decided for the tokens of a scope."""
    return [(output.logits_TE, output.weights_TK, output.experts_TK) for output in routers.trace.at(scope)]
