"""All routing metrics of one split together: updated in one call, read as one table."""

import pandas as pd
from torch import Tensor, nn

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.plugins import concrete_subclasses
from moe_tune.routing import RoutingTrace, Scope

SCOPES: tuple[Scope, ...] = ("answer", "all")


class RoutingEvidence(nn.Module):
    """Every routing metric there is, under both scopes.

    Args:
        shape: The sizes of the metrics' states.
    """

    def __init__(self, shape: MetricShape) -> None:
        super().__init__()
        self.shape = shape
        classes = concrete_subclasses(RoutingMetric)
        self.metrics = nn.ModuleDict(
            {f"{name}_{scope}": kind(shape, scope) for name, kind in classes.items() for scope in SCOPES}
        )

    def _all(self) -> list[RoutingMetric]:
        return [metric for metric in self.metrics.values() if isinstance(metric, RoutingMetric)]

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add a batch to every metric; of a trace that holds answer tokens alone, only the answer scope is known."""
        for metric in self._all():
            if metric.scope == "answer" or not trace.answer_only:
                metric.update(trace, outcome)

    def reset(self) -> None:
        """Forget everything."""
        for metric in self._all():
            metric.reset()

    def summary(self) -> dict[str, float]:
        """Return the history's numbers, at the answer scope."""
        values: dict[str, float] = {}
        for metric in self._all():
            if metric.scope == "answer":
                values |= metric.summary(metric.compute())
        return values

    def frame(self) -> pd.DataFrame:
        """Return one row per scope seen, layer and expert; values of a layer stand in each of its rows."""
        parts = []
        for scope in SCOPES:
            if not any(metric.update_called for metric in self._all() if metric.scope == scope):
                continue
            tables: dict[str, Tensor] = {}
            for metric in self._all():
                if metric.scope == scope:
                    tables |= metric.compute()
            layers, experts = len(self.shape.layers), self.shape.num_experts
            columns = {
                name: (table if table.dim() == 2 else table[:, None].expand(layers, experts)).reshape(-1).cpu().numpy()
                for name, table in tables.items()
                if table.dim() <= 2
            }
            index = pd.MultiIndex.from_product([self.shape.layers, range(experts)], names=["layer", "expert"])
            frame = pd.DataFrame(columns, index=index).reset_index()
            frame.insert(0, "scope", scope)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def subject_frame(self, subjects: list[str]) -> pd.DataFrame:
        """Return the answer scope by subject: one row per layer, expert and subject that met.

        Args:
            subjects: Subject names in index order.
        """
        metric = self.metrics["ExpertAccuracy_answer"]
        assert isinstance(metric, RoutingMetric)
        tables = metric.compute()
        index = pd.MultiIndex.from_product(
            [self.shape.layers, range(self.shape.num_experts), subjects], names=["layer", "expert", "subject"]
        )
        frame = pd.DataFrame(
            {name: tables[f"{name}_by_subject"].reshape(-1).cpu().numpy() for name in ("questions", "correct")},
            index=index,
        )
        return frame[frame["questions"] > 0].reset_index()
