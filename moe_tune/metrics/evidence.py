"""All routing metrics of one split together: updated in one call, read as one table."""

from collections.abc import Sequence
from typing import get_args

import pandas as pd
from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import PARTS, Part, RoutingTrace, Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)


class RoutingEvidence(nn.Module):
    """Every routing metric there is, or some, under several scopes.

    Args:
        shape: The sizes of the metrics' states.
        scopes: ``answer``, ``all``, or parts of a prompt; a part counts where the trace knows it.
        kinds: The metrics; ``None`` takes all.

    Raises:
        ConfigError: A scope is unknown or given twice.
    """

    def __init__(
        self,
        shape: MetricShape,
        scopes: Sequence[Scope | Part] = SCOPES,
        kinds: Sequence[type[RoutingMetric]] | None = None,
    ) -> None:
        super().__init__()
        known, every = [*SCOPES, *PARTS], set(scopes)
        hint = "answer is the last prompt token, all every real one, the rest are parts of a prompt."
        different = every <= {*known} and len(every) == len(scopes)
        require(different, f"different scopes of {known}", list(scopes), "scopes", hint)
        self.shape, self.scopes = shape, tuple(scopes)
        classes = concrete_subclasses(RoutingMetric)
        if kinds is not None:
            classes = {name: kind for name, kind in classes.items() if kind in kinds}
        self.metrics = nn.ModuleDict(
            {f"{name}_{scope}": kind(shape, scope) for scope in self.scopes for name, kind in classes.items()}
        )

    def _at(self, scope: Scope | Part) -> list[RoutingMetric]:
        every = self.metrics.values()
        return [metric for metric in every if isinstance(metric, RoutingMetric) and metric.scope == scope]

    @property
    def seen(self) -> tuple[Scope | Part, ...]:
        """The scopes under which something was counted so far, in the order given."""
        return tuple(scope for scope in self.scopes if any(metric.update_called for metric in self._at(scope)))

    @property
    def needs(self) -> frozenset[str]:
        """Costly extras of a trace that its metrics read."""
        every = (metric for metric in self.metrics.values() if isinstance(metric, RoutingMetric))
        return frozenset[str]().union(*(metric.needs for metric in every))

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add a batch to every metric whose tokens the trace knows."""
        for scope in self.scopes:
            if scope != "answer" and (trace.answer_only or (scope in PARTS and trace.part_T is None)):
                continue
            for metric in self._at(scope):
                metric.update(trace, outcome)
            trace.forget()  # one scope's tokens at a time

    def tables(self, scope: Scope | Part) -> dict[str, Tensor]:
        """Return all tables of a scope by name, each shaped as its axes say; across processes, call it on every one."""
        tables: dict[str, Tensor] = {}
        for metric in self._at(scope):
            # torchmetrics makes a table of a single number a scalar.
            for name, table in metric.compute().items():
                tables[name] = table.view(self.shape.sizes(metric.axes[name]))
        return tables

    def summary(self) -> dict[str, float]:
        tables = self.tables("answer")
        values: dict[str, float] = {}
        for metric in self._at("answer"):
            values |= metric.summary({name: tables[name] for name in metric.axes})
        return values

    def frame(self) -> pd.DataFrame:
        """Return one row per scope seen, layer and expert; values of a layer stand in each of its rows."""
        layers, experts = self.shape.layers, self.shape.num_experts
        index = pd.MultiIndex.from_product([layers, range(experts)], names=["layer", "expert"])
        parts = []
        for scope in self.seen:
            axes = {name: letters for metric in self._at(scope) for name, letters in metric.axes.items()}
            columns = {
                name: (table if axes[name] == "LE" else table[:, None].expand(-1, experts)).reshape(-1).cpu().numpy()
                for name, table in self.tables(scope).items()
                if axes[name] in ("L", "LE")
            }
            frame = pd.DataFrame(columns, index=index).reset_index()
            frame.insert(0, "scope", scope)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def subject_frame(self, subjects: list[str]) -> pd.DataFrame:
        """Return the answer scope by subject: one row per layer, expert and subject that met."""
        tables = self.tables("answer")
        index = pd.MultiIndex.from_product(
            [self.shape.layers, range(self.shape.num_experts), subjects], names=["layer", "expert", "subject"]
        )
        frame = pd.DataFrame(
            {name: tables[f"{name}_by_subject"].reshape(-1).cpu().numpy() for name in ("questions", "correct")},
            index=index,
        )
        return frame[frame["questions"] > 0].reset_index()
