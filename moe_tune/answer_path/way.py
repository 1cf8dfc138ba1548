"""The rule of the way: kept prompt states, states computed on the fly, a trunk cache, or the full prompts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError, require
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import AuxLoss
from moe_tune.models.refusals import Refusals
from moe_tune.routing import Scope


class Way(StrEnum):
    """How the batches of a split go; the value is what manifests say."""

    CACHED = "cached"
    FULL_PROMPTS = "full prompts"
    STREAMED = "streamed"
    TRUNK = "trunk cache"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far what a run changes and looks at reaches into its prompts.

    Args:
        first_layer: Lowest layer with a head.
        scope: Where heads act.
        adapter: Whether a LoRA changes every token.
        wide_loss: Name of a loss that reads the routing of all tokens; ``None`` if none does.
        lowest_look: Lowest layer that a loss names; ``None`` if none names one.
        refusals: Which ways the model's family does not allow (``ModelFamily.refusals``).
        cloze: Whether the choices' texts are scored, several answer tokens per question.
    """

    first_layer: int
    scope: Scope = "answer"
    adapter: bool = False
    wide_loss: str | None = None
    lowest_look: int | None = None
    refusals: Refusals = field(default_factory=Refusals)
    cloze: bool = False

    @classmethod
    def of(
        cls, layers: Iterable[int], scope: Scope, adapter: bool, losses: Mapping[str, AuxLoss], refusals: Refusals
    ) -> "Reach":
        """Return the reach of heads, adapter and losses."""
        wide = sorted(name for name, loss in losses.items() if loss.scope == "all" and loss.reads == "routing")
        looks = [layer for loss in losses.values() for layer in loss.layers or ()]
        return cls(min(layers), scope, adapter, wide[0] if wide else None, min(looks, default=None), refusals)

    @property
    def why_not(self) -> str | None:
        """Why the answer path would not be exact; ``None`` where it is."""
        if self.adapter:
            return "a LoRA changes every token"
        if self.scope != "answer":
            return f"scope {self.scope}"
        return f"loss {self.wide_loss} looks at all tokens" if self.wide_loss else self.refusals.answer_path


class SplitSizes(Protocol):
    """What a split's caches take; asked for only where the way depends on it."""

    @property
    def questions(self) -> int:
        """Questions of the split."""

    @property
    def prompt_bytes(self) -> float:
        """Bytes of its prompt cache."""

    @property
    def trunk_bytes(self) -> float:
        """Bytes of its trunk cache."""

    @property
    def kept(self) -> bool:
        """Whether its prompt cache is there already."""


@dataclass(frozen=True, slots=True)
class WayDecision:
    """How a split goes.

    Args:
        way: Its way.
        sample: Go on with a sample of this many questions and ask again; ``None`` goes on with all.
    """

    way: Way
    sample: int | None = None


def decide_way(split: str, reach: Reach, settings: AnswerPath, sizes: SplitSizes) -> WayDecision:
    """Return how the batches of a split go; a pure function of its arguments, which loads and changes nothing.

    Raises:
        ConfigError: The answer path is demanded where it is not exact, a question alone is above the limit, or a cloze
            question's choices cannot run side by side.
    """
    refuse_demand(reach, settings)
    if reach.cloze and reach.refusals.side_by_side:
        raise ConfigError(
            f"expected attention to all earlier tokens but got {reach.refusals.side_by_side} (model.base, split "
            f"{split}): the choices of a cloze question could not run side by side. Hint: --data.protocol lm_eval."
        )
    training, limit = split == "train", settings.limit_gb * 1e9
    if settings.use == "trunk":
        return _trunk_or_prompts(reach, sizes, limit) if training else WayDecision(Way.FULL_PROMPTS)
    if settings.use == "never" or reach.why_not:
        return WayDecision(Way.FULL_PROMPTS)
    sampling = training and settings.above_limit == "sample"
    # What is on disk must not decide which questions train.
    if sizes.prompt_bytes <= limit or (not sampling and sizes.kept):
        return WayDecision(Way.CACHED)
    if not training or settings.above_limit == "stream":
        return WayDecision(Way.STREAMED)
    if settings.above_limit == "trunk":
        return _trunk_or_prompts(reach, sizes, limit)
    fewer = int(sizes.questions * min(0.98, limit / sizes.prompt_bytes))
    where, hint = "model.answer_path.limit_gb", "--model.answer_path.above_limit stream keeps nothing."
    require(fewer >= 1, "gigabytes for a question's cache", settings.limit_gb, where, hint)
    return WayDecision(Way.CACHED, fewer)


def refuse_demand(reach: Reach, settings: AnswerPath) -> None:
    """Refuse ``use: always`` where the answer path is not exact.

    Raises:
        ConfigError: It is demanded there.
    """
    if settings.use == "always" and reach.why_not:
        raise ConfigError(
            f"expected heads and losses of the answer position but got {reach.why_not} (model.answer_path.use). "
            "Hint: auto takes the full prompts where the answer path is not exact."
        )


def _trunk_or_prompts(reach: Reach, sizes: SplitSizes, limit: float) -> WayDecision:
    if trunk_refusal(reach) or sizes.trunk_bytes > limit:
        return WayDecision(Way.FULL_PROMPTS)
    return WayDecision(Way.TRUNK)


def trunk_refusal(reach: Reach) -> str | None:
    """Return why what enters the first trained layer cannot be kept in place of what is below it, or ``None``."""
    if reach.adapter:
        return "a LoRA changes every token"
    if reach.cloze:
        return "choices run side by side"
    if not reach.first_layer:
        return "the first layer is trained"
    if reach.lowest_look is not None and reach.lowest_look < reach.first_layer:
        return f"a loss looks at layer {reach.lowest_look}"
    return reach.refusals.trunk


def with_heads(heads: Iterable[RouterHead], refusals: Refusals) -> Refusals:
    """Return what a model and its heads do not allow together: heads that look tokens up need whole prompts."""
    looking = [type(one).__name__ for one in heads if one.traits.knows_tokens]
    if not looking:
        return refusals
    why = f"{looking[0]} looks up the tokens of whole prompts"
    return replace(refusals, answer_path=why, trunk=why)
