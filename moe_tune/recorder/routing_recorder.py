"""RoutingRecorder: what the routers of a model do while somebody else trains it or lets it generate."""

import inspect
import warnings
from types import TracebackType
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.recorder.gate_listener import GateListener, HeardPass
from moe_tune.recorder.layer_values import brief_values, layer_frame
from moe_tune.recorder.read_gates import inner_model, read_gates

Passes = Literal["all", "training"]
"""Which forward passes count: all, or those in training mode with gradients (no evaluation, no generation)."""
_NOTHING = torch.empty(0, dtype=torch.long)
NO_QUESTIONS = Outcome(_NOTHING.bool(), _NOTHING, _NOTHING)
"""What routing metrics are told of answers where nobody knows any."""


class RoutingRecorder:
    """Counts how the routers of a model decide, over every real token; it changes nothing that the model computes.

    As a context manager it listens from the beginning to the end of the block, or from ``attach`` to ``detach``.
    Statistics are those of ``GateEntropy`` and ``ExpertActivation`` at scope ``all``. A forward pass counts once, also
    under gradient checkpointing; padding, known by a mask of batch x sequence, does not count.

    Args:
        model: A model of transformers of any type in ``list families``, with stock gates; or what holds one: DDP,
            PEFT, a LightningModule.
        passes: ``all``; or ``training``, passes in training mode with gradients alone.

    Attributes:
        frame: One row per layer for the last ``step``: ``layer``, ``tokens``, entropies, ``activated``,
            ``never_share``, ``load_max_over_mean``, ``load_cv``.

    Raises:
        ConfigError: The model is not served, or has router heads.

    Example:
        >>> from transformers import AutoModelForCausalLM
        >>> from moe_tune.models.families import family_of
        >>> model = AutoModelForCausalLM.from_config(family_of("olmoe").tiny_config())
        >>> with RoutingRecorder(model) as recorder:
        ...     _ = model(torch.tensor([[1, 2, 3]]))
        ...     values = recorder.step()
        >>> values["routing/tokens"], len(recorder.frame)
        (3.0, 3)
    """

    def __init__(self, model: nn.Module, passes: Passes = "all") -> None:
        require(passes in ("all", "training"), "all or training", passes, "passes", "all counts every forward pass.")
        self.model, self.passes = inner_model(model), passes
        self.gates = read_gates(self.model)
        layers, rule = tuple(one.layer for one in self.gates), self.gates[0].rule
        shape = MetricShape(layers, rule.num_experts, rule.top_k, num_subjects=0, num_questions=0)
        self._metrics: tuple[RoutingMetric, ...] = (GateEntropy(shape, "all"), ExpertActivation(shape, "all"))
        self._described = all(one.rule.described for one in self.gates)
        if not self._described:
            warnings.warn(
                f"{type(self.model).__name__}'s router weighs in no known closed form: the entropy over all experts is "
                "not recorded, that over the chosen ones is.",
                stacklevel=2,
            )
        self.frame = pd.DataFrame()
        self._listener: GateListener | None = None

    def __enter__(self) -> "RoutingRecorder":
        self.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.detach()

    def attach(self) -> None:
        """Listen from now on."""
        if self._listener is None:
            self._listener = GateListener(self.model, self.gates, self._wanted, self._count)

    def detach(self) -> None:
        """Listen no more: all hooks are taken away; what was counted stays until ``step``."""
        if self._listener is not None:
            self._listener.remove()
            self._listener = None

    def step(self) -> dict[str, float]:
        """Return the values since the last step, and begin anew; with several processes, call it on every one.

        Returns:
            Means over layers and extremes, at most 27 keys that begin with ``routing/``; empty where no pass was
            counted. ``frame`` holds the layers one by one.
        """
        tables: dict[str, Tensor] = {}
        for metric in self._metrics:
            for name, state in metric.metric_state.items():
                setattr(metric, name, summed_over_ranks(state))
            # Unwrapped: torchmetrics would gather every state again, and warn of a process without a batch.
            tables |= {name: table.cpu() for name, table in inspect.unwrap(metric.compute)().items()}
            metric.reset()
        if not self._described:
            tables |= {name: torch.full_like(tables[name], torch.nan) for name in tables if "entropy_all" in name}
        layers = tuple(one.layer for one in self.gates)
        self.frame = layer_frame(layers, tables)
        return brief_values(tables, self.frame) if tables["tokens"].any() else {}

    def _wanted(self) -> bool:
        return self.passes == "all" or (self.model.base_model.training and torch.is_grad_enabled())

    @torch.no_grad()
    def _count(self, heard: HeardPass) -> None:
        trace = heard.trace(self.gates)
        for metric in self._metrics:
            if metric.device != trace.real_T.device:
                metric.to(trace.real_T.device)
            metric.update(trace, NO_QUESTIONS)
