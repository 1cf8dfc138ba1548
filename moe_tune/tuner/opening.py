"""Opening a base model: loaded, measured where it runs, with heads and an adapter on it."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.build import PASS_TOKENS
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach, with_heads
from moe_tune.base.errors import ModelError, MoeTuneError, require
from moe_tune.base.ranks import ALONE, Ranks
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.session import RoutingDtype
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import AuxLoss
from moe_tune.models.base_model import BaseModel
from moe_tune.models.experts_choice import measured_choice
from moe_tune.routing import Scope
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.objective import TaskLoss

FEW_TOKENS, SOME_TOKENS = 64, 1024
"""Tokens at which the experts implementation is measured, for answer tokens alone and for a batch of whole prompts."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelSettings:
    """What a configuration says of its model; the fields are ``RouterTuner``'s arguments of the same name."""

    base: BaseModel
    head: RouterHead
    losses: Mapping[str, AuxLoss] = field(default_factory=dict)
    layers: str | list[int] = "last-5"
    scope: Scope = "answer"
    task_loss: TaskLoss = "letters"
    routing_dtype: RoutingDtype = "float32"
    answer_path: AnswerPath = field(default_factory=AnswerPath)
    peft: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OpenModel:
    """A loaded model, and what was measured of it.

    Args:
        asked: What it was loaded from.
        gated: The model with heads on it.
        experts: The experts implementation in use.
        pass_experts: That of the pass over many prompts.
    """

    asked: ModelSettings
    gated: GatedModel
    experts: str
    pass_experts: str

    def reach(self, layers: Iterable[int] | None = None) -> Reach:
        """Return how far heads, adapter and losses reach into prompts; heads act on their layers, or on those told."""
        gated = self.gated
        refusals = with_heads([self.asked.head], gated.family.refusals(gated.model.config))
        return Reach.of(layers or gated.layers, gated.scope, gated.adapter is not None, self.asked.losses, refusals)

    def examiner(
        self,
        quiz: QuizDataModule,
        ranks: Ranks = ALONE,
        numerics: Callable[[], AbstractContextManager[object]] = nullcontext,
        layers: Iterable[int] | None = None,
    ) -> Examiner:
        """Return who asks the model the questions of a quiz."""
        asked, base = self.asked, self.asked.base
        here = Circumstances(
            self.gated, quiz, self.reach(layers), asked.answer_path, ranks, base.path, base.revision, self.pass_experts
        )
        return Examiner(Answering(here), asked.task_loss, numerics)

    def accept(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse heads that were made for another base model, and take note of what they were calibrated on.

        Raises:
            ModelError: The base model's tensors differ from those the checkpoint was made with.
        """
        theirs, base, known = checkpoint.get("base", {}), self.asked.base, self.gated.fingerprint
        if theirs.get("fingerprint") != known:
            raise ModelError(
                f"expected a checkpoint for {base.path} at {base.revision}, fingerprint {known}, but got one for "
                f"{theirs.get('path')} at {theirs.get('revision')}, fingerprint {theirs.get('fingerprint')} "
                "(ckpt_path). Hint: set model.base to the checkpoint's."
            )
        self.gated.calibrated_on = frozenset(checkpoint.get("calibrated_on", ()))

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Give heads and adapter the state that a checkpoint holds, if it is acceptable."""
        self.accept(checkpoint)
        self.gated.load_state(dict(checkpoint["state_dict"]), "checkpoint")


def refuse_strangers(gated: GatedModel, heads: Mapping[int, RouterHead]) -> None:
    """Refuse bound heads that were made for another base model, or for layers that this one has not.

    Raises:
        ConfigError: One was.
    """
    gated.refuse_foreign(heads)
    refuse_places(gated, heads)


def refuse_places(gated: GatedModel, heads: Mapping[int, RouterHead]) -> None:
    """Refuse bound heads that were told of layers which the model has not, or which do not get the head.

    Raises:
        ConfigError: One was.
    """
    for part in (one for head in heads.values() for one in head.modules() if isinstance(one, RouterHead)):
        part.refuse_layers(list(gated.gates))
        part.refuse_places(sorted(heads))


def refuse_losses(asked: ModelSettings, gated: GatedModel) -> None:
    """Refuse losses that look at layers the model has not, or that mean nothing where they look.

    Raises:
        ConfigError: One does.
    """
    known, all_scopes = sorted(gated.gates), "set the loss's scope, or that of the heads."
    for name, loss in asked.losses.items():
        key, there = f"model.losses.{name}", loss.layers is None or set(loss.layers) <= {*known}
        require(there, f"MoE layers of {known}", loss.layers, f"{key}.layers", "null takes those with a head.")
        scope = loss.scope or asked.scope
        require(scope in loss.scopes, f"scope {' or '.join(loss.scopes)}", scope, f"{key}.scope", all_scopes)


def open_model(asked: ModelSettings, device: torch.device, ranks: Ranks = ALONE) -> OpenModel:
    """Load a base model and put heads on it."""
    model, family = asked.base.load()
    model.to(device)
    experts = pass_experts = str(asked.base.experts_implementation)
    if experts == "auto":
        # Few tokens and many want different kernels: answer tokens, whole prompts, and the pass over many prompts.
        few = asked.scope == "answer" and asked.answer_path.use in ("auto", "always")
        experts = measured_choice(model, family, FEW_TOKENS if few else SOME_TOKENS)
        pass_experts = measured_choice(model, family, PASS_TOKENS)
        experts, pass_experts = ranks.broadcast((experts, pass_experts))  # else two processes compute in two ways
    model.set_experts_implementation(experts)
    gated = GatedModel(model, family, asked.head, asked.layers, asked.scope, asked.routing_dtype)
    try:
        if asked.peft:
            gated.adapt(asked.peft)
        asked.base.confirm(gated.hashes_at_load)
        refuse_strangers(gated, gated.heads)
        refuse_losses(asked, gated)
    except MoeTuneError:
        gated.detach()  # the model may be one that other runs share
        raise
    return OpenModel(asked, gated, experts, pass_experts)
