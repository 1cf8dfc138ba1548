"""with_losses: our auxiliary losses in anybody's training loop, added to the loss that the model returns."""

import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.gates.layer_view import LayerView
from moe_tune.losses.base import CONTEXT_EXTRAS, AuxLoss, LossContext
from moe_tune.recorder.gate_listener import GateListener, HeardPass
from moe_tune.recorder.layer_values import PREFIX
from moe_tune.recorder.loss_refusals import SCOPE, checked_losses, refuse_unknowable
from moe_tune.recorder.read_gates import inner_model, read_gates
from moe_tune.routing import RoutingTrace

IGNORED = -100
"""The label of tokens that transformers' losses leave out."""


class AddedLosses:
    """Auxiliary losses on a model: what ``with_losses`` returns, from which they can be read, told of steps, removed.

    Args:
        model: The model, or what holds it.
        losses: Auxiliary losses by name.

    Attributes:
        progress: Share of training done, 0 to 1, which schedules and warm-ups of the losses follow; the loop sets it,
            or the callback for Trainer or Lightning.

    Raises:
        ConfigError: The model is not served, or a loss reads what is not there.
    """

    def __init__(self, model: nn.Module, losses: Mapping[str, AuxLoss]) -> None:
        self.model, self.losses, self.progress = inner_model(model), checked_losses(losses), 0.0
        what, hint = "a model with a loss of its own", "AutoModelForCausalLM.from_pretrained."
        require(self.model.base_model is not self.model, what, type(self.model).__name__, "model", hint)
        self.gates = read_gates(self.model)
        refuse_unknowable(self.losses, self.gates)
        if getattr(self.model.config, "output_router_logits", False):
            warnings.warn(
                "the model adds its own load-balancing loss as well (config.output_router_logits, "
                "config.router_aux_loss_coef). Hint: model.config.output_router_logits = False.",
                stacklevel=3,
            )
        self._needs = frozenset[str]().union(*(one.needs for one in self.losses.values())) - CONTEXT_EXTRAS
        self._heard: HeardPass | None = None
        self._inside = self._added = self._told = False
        self._sums: dict[str, Tensor] = {}
        self._passes = 0
        self._listener = GateListener(self.model, self.gates, lambda: self.model.training, self._keep)
        self._hooks = (
            self.model.register_forward_pre_hook(self._enter),
            self.model.register_forward_hook(self._add, with_kwargs=True, always_call=True),
        )

    def __enter__(self) -> "AddedLosses":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the losses off the model."""
        self._listener.remove()
        for hook in self._hooks:
            hook.remove()

    def after_step(self) -> None:
        """Let losses move what they carry from step to step; once after every optimiser step."""
        for loss in self.losses.values():
            loss.after_step()
        if not self._added and not self._told:
            self._told = True
            warnings.warn(
                "no loss was added in this optimiser step: the model was not called with labels in training mode. "
                "Hint: a loop that computes the loss itself cannot have with_losses.",
                stacklevel=2,
            )
        self._added = False

    def step(self) -> dict[str, float]:
        """Return each loss's mean value since the last call, unscaled; with several processes, call it on every one.

        Returns:
            ``routing/<name>`` by name; empty where no pass had a loss to add to.
        """
        passes, self._passes = int(summed_over_ranks(torch.tensor(self._passes))), 0
        sums, self._sums = self._sums, {}
        empty = torch.zeros((), dtype=torch.float64)
        total = {name: summed_over_ranks(sums.get(name, empty)) for name in self.losses}
        return {f"{PREFIX}{name}": float(value) / passes for name, value in total.items()} if passes else {}

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside = True

    def _keep(self, heard: HeardPass) -> None:
        if heard.with_gradient and not self._inside:
            raise ConfigError(
                f"expected a loop that calls {type(self.model).__name__} with labels but its body was called alone: "
                "losses have nothing to be added to. Hint: let the model compute its loss (no fused loss kernel)."
            )
        self._heard = heard

    def _add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        heard, self._heard, self._inside = self._heard, None, False
        if heard is None or output is None or kwargs.get("labels") is None:
            return None
        loss = output[0] if isinstance(output, tuple) else output.loss
        loss = loss + (self._total(heard) * share_of_step(kwargs)).to(loss.device)
        if isinstance(output, tuple):
            return (loss, *output[1:])
        output.loss = loss
        return output

    def _total(self, heard: HeardPass) -> Tensor:
        if heard.with_gradient and not all(one.with_gradient for one in heard.returned.values()):
            raise ConfigError(
                "expected routers whose logits have a gradient but the layers run without one: reentrant gradient "
                'checkpointing (use_reentrant). Hint: gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        trace = heard.trace(self.gates, self._needs)
        context, self._passes, self._added = self._context(trace), self._passes + 1, True
        parts = []
        for name, loss in self.losses.items():
            value = loss.compute(trace, context)
            if heard.with_gradient and not value.requires_grad:
                raise ConfigError(
                    f"expected every loss to reach a trainable parameter but {name!r} does not (losses). "
                    "Hint: let its routers train, or what is below them; or drop the loss."
                )
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()
            parts.append(loss.current_weight(self.progress) * value)
        return torch.stack(parts).sum()

    def _context(self, trace: RoutingTrace) -> LossContext:
        view = {
            one.layer: LayerView(one.replay.weight(one.replay.gate), None, one.experts, one.adapted, one.one_input)
            for one in self.gates
        }
        unknown = torch.empty(0, device=trace.real_T.device)  # of answers; losses that read them are refused
        layers = tuple(view)
        return LossContext(self.gates[0].rule, layers, SCOPE, self.progress, unknown, unknown, unknown, view)


def share_of_step(kwargs: Mapping[str, Any]) -> Tensor | float:
    """Return what a batch counts within its optimiser step, as the model's own loss counts it.

    Trainer hands models the number of labelled tokens of the whole step, and their loss is a sum divided by it: a
    batch then counts by its part of these tokens. Else the loss is a mean, and the loop divides it: 1.

    Args:
        kwargs: What the model was called with.

    Example:
        >>> labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
        >>> float(share_of_step({"labels": labels, "num_items_in_batch": 6}))
        0.5
    """
    items = kwargs.get("num_items_in_batch")
    if items is None:
        return 1.0
    shifted = kwargs.get("shift_labels")
    labels = kwargs["labels"][..., 1:] if shifted is None else shifted
    count: Tensor = (labels != IGNORED).sum()
    return count / (items.to(count.device) if isinstance(items, Tensor) else items)


def with_losses(model: nn.Module, losses: Mapping[str, AuxLoss]) -> AddedLosses:
    """Add auxiliary losses to what a model returns as its loss, for any training loop.

    Formula: ``loss + sum_n weight_n schedule_n(progress) value_n``, in training mode and where labels are given. Values
    are those of the loss's page, over all MoE layers and every real token unless the loss says otherwise.

    Args:
        model: A model of transformers of any type in ``list families``, with stock gates; or what holds one: DDP,
            PEFT, a LightningModule.
        losses: Auxiliary losses by name.

    Returns:
        A handle: a context manager whose end takes the losses off, as ``remove`` does.

    Raises:
        ConfigError: The model is not served; no losses by name were given; a loss reads answers, what a run prepares
            beforehand, or probabilities that no closed form gives; in a pass: a loss reaches no trainable parameter,
            or gradient checkpointing is reentrant.

    Example:
        >>> from transformers import AutoModelForCausalLM
        >>> from moe_tune.losses.z_loss import ZLoss
        >>> from moe_tune.models.families import family_of
        >>> model = AutoModelForCausalLM.from_config(family_of("olmoe").tiny_config()).train()
        >>> batch = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[1, 2, 3]])}
        >>> alone = model(**batch).loss
        >>> with with_losses(model, {"z": ZLoss(weight=0.5)}) as added:
        ...     together = model(**batch).loss
        >>> torch.allclose(together, alone + 0.5 * added.step()["routing/z"])
        True
    """
    return AddedLosses(model, losses)
