"""Routing: the contract everybody reads first, what a router decided for every token of every MoE layer.

It imports ``base`` alone. Shape legend, used as name suffix in all routing code:

====  =====================================================================
T     tokens (batch times sequence, flattened; or one per question)
E     experts of a layer
K     expert slots per token (top-k)
D     width of the hidden state the router reads
L     MoE layers of the model
B, S  questions in a batch, positions of a prompt
Q     questions of a split
A     answer choices
H, C  heads of keys and values, width of one
P     tokens of a prefix that several prompts share
N     router heads compared in one pass
====  =====================================================================
"""

from moe_tune.routing.decision import Decision
from moe_tune.routing.functions import entropy, normalised, stable_top_k
from moe_tune.routing.known_routes import NeighbourRoutes, OracleRoutes, SampledRoutes
from moe_tune.routing.layer_table import LayerTable
from moe_tune.routing.output import RouterOutput, Rows
from moe_tune.routing.scope import PARTS, Part, Scope
from moe_tune.routing.scoring_rule import BARRED, ScoringRule
from moe_tune.routing.softmax_rule import SoftmaxRule
from moe_tune.routing.stock_router import StockRouter, unfoldable
from moe_tune.routing.trace import RoutingTrace

__all__ = [
    "BARRED",
    "PARTS",
    "Decision",
    "LayerTable",
    "NeighbourRoutes",
    "OracleRoutes",
    "Part",
    "RouterOutput",
    "RoutingTrace",
    "Rows",
    "SampledRoutes",
    "Scope",
    "ScoringRule",
    "SoftmaxRule",
    "StockRouter",
    "entropy",
    "normalised",
    "stable_top_k",
    "unfoldable",
]
