"""What a loss may see of a layer beside its trace: the router's weight and the experts' own outputs."""

from dataclasses import dataclass

from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.gates.tuned_experts import TunedExperts, expert_outputs
from moe_tune.heads.base import RouterHead


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer's router weight and experts; the contract is ``moe_tune.losses.base.Layer``.

    Args:
        pretrained_ED: The pretrained router weight, frozen.
        head: The layer's head, if it has one.
        experts: The layer's experts.
        adapted: Whether an adapter changes the router beside the head.
        one_input: Whether the experts read what the router reads.
    """

    pretrained_ED: Tensor
    head: RouterHead | None
    experts: nn.Module
    adapted: bool = False
    one_input: bool = True

    def router_weight(self) -> Tensor | None:
        """Return the weight the layer routes with, (E, D), with its gradient; ``None`` if it is no single weight."""
        if self.adapted:
            return None
        return self.pretrained_ED if self.head is None else self.head.router_weight(self.pretrained_ED)

    def outputs(self, hidden_TD: Tensor, experts_TK: Tensor) -> Tensor:
        """Return what each chosen expert makes of a token, unweighted.

        Shape:
            - returns (T, K, D).

        Raises:
            ConfigError: The experts of this family do not read what its router reads, which is all that is known.
        """
        hint = "leave out losses of expert outputs, such as ExpertOrthogonality."
        what = "experts that read what their router reads"
        require(self.one_input, what, "a router with a norm of its own", "model.losses", hint)
        stock = self.experts.stock if isinstance(self.experts, TunedExperts) else self.experts
        return expert_outputs(stock, hidden_TD, experts_TK)
