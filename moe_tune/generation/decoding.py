"""How the next token is chosen, checked before anything large is imported."""

from dataclasses import dataclass

from moe_tune.base.errors import require


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen.

    Args:
        max_new_tokens: At most so many are generated, at least 1.
        temperature: 0 takes the likeliest; above it, one is drawn from ``softmax(logits / temperature)``.
        seed: Of the draws; every prompt and every model begins from it.

    Raises:
        ConfigError: A value is out of range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        most = self.max_new_tokens
        require(most >= 1, "at least 1 new token", most, "--max_new_tokens", "the default is 64.")
        hint = "0 is greedy, 1 draws from the model's own probabilities."
        require(0 <= self.temperature < float("inf"), "0 or more", self.temperature, "--temperature", hint)
        require(0 <= self.seed < 2**63, "a seed of 0 or more", self.seed, "--seed", "the default is 0.")
