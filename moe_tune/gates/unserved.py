"""What a model's routers cannot serve is refused before anything is changed."""

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.heads.base import RouterHead
from moe_tune.routing import ScoringRule


def refuse_unserved(head: RouterHead, rules: list[ScoringRule]) -> None:
    """Refuse a model whose layers differ in experts, and a head that its routers cannot serve."""
    sizes = sorted({(rule.num_experts, rule.top_k) for rule in rules})
    if len(sizes) > 1:
        raise ModelError(f"expected as many experts, and experts per token, in every layer but got (E, K) = {sizes}.")
    if head.traits.chosen_by_logits and not all(rule.chooses_by_logits for rule in rules):
        names = sorted({type(one).__name__ for one in head.leaves() if one.traits.chosen_by_logits})
        raise ConfigError(
            f"expected a head for a router that does not choose by its logits alone (it adds a bias to sigmoids, or "
            f"chooses groups first) but got {', '.join(names)} (model.head). Hint: RetunedHead, TemperatureHead or "
            "AccuracyBiasHead."
        )
    reads = head.beyond_logits()
    if reads and not all(rule.described for rule in rules):
        raise ConfigError(
            f"expected a head that changes logits alone, as this router weighs in no known closed form, but got "
            f"{', '.join(reads)} (model.head). Hint: RetunedHead, LowRankHead or MlpHead."
        )
