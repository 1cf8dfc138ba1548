"""The contract of a router head, and how a head's three stages make a routing decision."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ConfigError, require
from moe_tune.routing import (
    Decision,
    LayerTable,
    RouterOutput,
    RoutingTrace,
    Rows,
    ScoringRule,
    StockRouter,
    unfoldable,
)


@dataclass(frozen=True, slots=True)
class HeadTraits:
    """What a head says of itself; the program and the conformance tests hold it to that.

    Args:
        trainable: It has parameters that gradient descent changes.
        needs_calibration: It reads a table of the training split before it is used (``calibrate``).
        exact_start: Before training and calibration its decisions equal the pretrained router's.
        foldable: Its effect can be written into the stock router weight.
        replaces_logits: Its scoring stage ignores the logits it is given, so it must come first in a stack.
        replaces_probabilities: Its weighing stage computes the probabilities anew, so a stack holds at most one such.
        selects_by_probability: Its selection stage turns logits into probabilities, so no other may select after it.
        replaces_weights: Its weighing stage sets the weights anew, so no other may change them before it.
        variable_k: The number of experts in use may differ from token to token.
        train_only: In evaluation it decides as the pretrained router does; what it adds acts in training alone.
        keeps_mass: The chosen experts' weights sum to what the pretrained router's would for the same choice.
        chosen_by_logits: It relies on the experts of the largest logits being chosen, and on softmax probabilities.
        refreshes: It reads a fresh table, made with the heads in place, before every later epoch of training.
        knows_tokens: It looks tokens up one by one (``meet``), so that prompts have to run in full.
        reason: Why it does not start exactly, if it does not.
    """

    trainable: bool = False
    needs_calibration: bool = False
    exact_start: bool = True
    foldable: bool = False
    replaces_logits: bool = False
    replaces_probabilities: bool = False
    selects_by_probability: bool = False
    replaces_weights: bool = False
    variable_k: bool = False
    train_only: bool = False
    keeps_mass: bool = False
    chosen_by_logits: bool = False
    refreshes: bool = False
    knows_tokens: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BaseGate:
    """The pretrained gate of one layer, as a head sees it when it is bound.

    Args:
        weight_ED: Pretrained router weight (not to be changed).
        rule: The family's scoring rule.
        layer: Index of the layer in the model.
        first: Whether no layer below it gets the head.
    """

    weight_ED: Tensor
    rule: ScoringRule
    layer: int
    first: bool = True


class RouterHead(nn.Module, ABC):
    """Changes a router's decision in up to four stages: score, select, admit, weigh; each default changes nothing.

    A configured head is a prototype without tensors; ``bound_to`` copies it for a layer and ``bind`` builds what
    the layer needs from the pretrained gate. Stages see only the tokens the head acts on.

    Attributes:
        made_for: Fingerprint of the base model that what ``bind`` has read belongs to; ``None`` where it reads nothing.
    """

    made_for: str | None = None

    @property
    @abstractmethod
    def traits(self) -> HeadTraits:
        """What the head says of itself."""

    def bind(self, gate: BaseGate) -> None:
        """Build the layer's parameters and buffers from the pretrained gate."""

    def bound_to(self, gate: BaseGate) -> Self:
        """Return a copy of this prototype bound to a layer's gate.

        Raises:
            ConfigError: It has parameters and says that it does not train, a part of it chooses questions, or it leaves
                a token fewer experts than it needs.
        """
        choosing = [type(one).__name__ for one in self.modules() if isinstance(one, RouterHead) and one.chooses()]
        alone = not choosing or (self.chooses() and len(choosing) == 1)
        hint = "put it around all the others; a strength of the inner head goes inside it."
        require(alone, "a head that chooses questions outermost", choosing, type(self).__name__, hint)
        head = copy.deepcopy(self)
        head.bind(gate)
        trained = sorted(name for name, value in head.named_parameters() if value.requires_grad)
        if trained and not head.traits.trainable:
            raise ConfigError(
                f"expected no parameters of a head that says it is not trainable but got {trained} "
                f"({type(self).__name__}.traits). Hint: HeadTraits(trainable=True), or register_buffer."
            )
        if head.bars_experts() and not gate.weight_ED.is_meta:
            left, top_k = head.allowed(gate.rule).left, gate.rule.top_k
            expected = f"at least {top_k} experts that any token can choose from in layer {gate.layer}"
            hint = "mask fewer; where groups are chosen first, those that may be chosen have to have as many."
            require(left is None or left >= top_k, expected, left, "model.head", hint)
        return head

    def recognises(self, hidden_QD: Tensor) -> Tensor | None:
        """Return the questions that the head acts on, (Q,) truth values; ``None`` for all.

        Asked of the head of the lowest layer that has one, once per forward pass and before any head acts; the answer
        stands for all tokens of a question and all layers. In the others the pretrained router decides. In training
        it is not asked, and acts on all.

        Args:
            hidden_QD: The router's input at the last token of each prompt.
        """
        return None

    def chooses(self) -> bool:
        """Whether it acts on some questions only."""
        return type(self).recognises is not RouterHead.recognises

    def refuse_layers(self, layers: list[int]) -> None:
        """Refuse a model whose routers are in other layers than the head was told of; asked of every part, once bound.

        Args:
            layers: All MoE layers of the model.

        Raises:
            ConfigError: They are.
        """

    def refuse_places(self, layers: list[int]) -> None:
        """Refuse to act in other layers than the head was told of; asked of every part, once bound.

        Args:
            layers: The layers that get the head.

        Raises:
            ConfigError: It was told of one that does not.
        """

    def meet(self, trace: RoutingTrace, rows: Rows) -> None:
        """See which tokens the next decision is about (heads that know tokens one by one).

        Args:
            trace: The forward pass, so far.
            rows: Which of its tokens the head acts on.
        """

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        """Return changed router logits.

        Args:
            hidden_TD: The router's input.
            logits_TE: Logits so far, starting with the pretrained router's.
        """
        return logits_TE

    def select(self, scores_TE: Tensor) -> Tensor:
        """Return changed selection scores: the K largest are chosen; weights are not touched by them.

        Args:
            scores_TE: Scores so far, starting with the logits.
        """
        return scores_TE

    def slots_for(self, rule: ScoringRule) -> int:
        """Return how many expert slots the head needs per token, at least 1; by default the family's K."""
        return rule.top_k

    def allowed(self, rule: ScoringRule) -> ScoringRule:
        """Return the rule without the experts that the head never lets be chosen; by default all may be.

        Asked before its stages, whose result cannot bring one of them back.

        Args:
            rule: The layer's scoring rule, perhaps already without some.
        """
        return rule

    def bars_experts(self) -> bool:
        """Whether it, or a part of it, keeps experts from being chosen."""
        return any(type(one).allowed is not RouterHead.allowed for one in self.leaves())

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor | None:
        """Return which slots are used, (T, K); ``None`` for all. Unused ones weigh nothing.

        Args:
            logits_TE: Router logits after the scoring stage.
            probs_TE: Their softmax.
            experts_TK: Candidates, best first, as many as the largest ``slots_for`` of the head's parts.
        """
        return None

    def weigh(self, decision: Decision) -> Decision:
        """Return the decision with changed probabilities or weights."""
        return decision

    def mix(self, mixed_TD: Tensor, hidden_TD: Tensor, output: RouterOutput, experts: nn.Module) -> Tensor:
        """Return the mixed expert outputs, (T, D); the default leaves the family's own mixture as it is.

        A head that overrides it decides how expert outputs are combined at the tokens it acts on (a dense gradient, a
        default expert for empty slots). In a stack at most one part may.

        Args:
            mixed_TD: The stock mixture of the chosen experts, with its gradient.
            hidden_TD: Input of the experts.
            output: What the router decided, with its gradient.
            experts: The layer's stock experts: a call with hidden states, indices and weights.
        """
        return mixed_TD

    def mixer(self) -> "RouterHead | None":
        """Return the head, this one or a part of it, that overrides ``mix``; ``None`` where the stock call stays.

        Raises:
            ConfigError: Several parts override it.
        """
        heads = [part for part in self.modules() if isinstance(part, RouterHead)]
        mixers = [part for part in heads if type(part).mix is not RouterHead.mix]
        names = [type(part).__name__ for part in mixers]
        require(len(mixers) < 2, "at most one head that mixes expert outputs", names, "head.parts", "keep one of them.")
        return mixers[0] if mixers else None

    def calibrate(self, table: "LayerTable") -> None:
        """Fit the head to a table of the training split (only heads that need calibration)."""

    def recalibrate(self, table: "LayerTable") -> None:
        """Fit the head anew between epochs, if it refreshes; others keep what they were fitted to and have learned."""
        if self.traits.refreshes:
            self.calibrate(table)

    def set_progress(self, progress: float) -> None:
        """Tell the head how much of training is done, 0 to 1 (scheduled heads)."""

    def observe(self, output: RouterOutput) -> None:
        """See what was decided for the tokens the head acts on, once per training batch (heads that keep count)."""

    def after_step(self) -> None:
        """Move what is not trained by gradient, once after every optimiser step, from what was observed since."""

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        """Return the router weight (E, D) that scores like this head, with its gradient; ``None`` if there is none.

        Args:
            weight_ED: The weight so far, starting with the pretrained one.
        """
        return weight_ED if type(self).score is RouterHead.score else None

    def fold(self, router: StockRouter) -> StockRouter:
        """Return the stock router that decides in evaluation as this head does behind another one.

        The default folds what changes logits by a router weight alone, and what acts in training alone.

        Args:
            router: The router so far, starting with the pretrained one.

        Raises:
            ConfigError: No stock gate decides so; the message names the part that stands in the way, and why.
        """
        if self.traits.train_only:
            return router
        kind = type(self)
        changed = kind.admit is not RouterHead.admit or kind.slots_for is not RouterHead.slots_for
        for holds, reason in (
            (self.chooses(), "it acts on some questions and leaves others to the pretrained router"),
            (kind.mix is not RouterHead.mix, "it mixes the experts' outputs in its own way"),
            (changed, "it uses another number of experts, which no tensor of a gate says"),
            (self.changes_selection(), "it chooses experts by other scores than a gate has"),
            (self.changes_weights(), "it weighs the chosen experts in another way than the family does"),
            (kind.meet is not RouterHead.meet, "it looks up each token"),
        ):
            if holds:
                raise unfoldable(kind.__name__, reason)
        weight_ED = self.router_weight(router.weight_ED)
        if weight_ED is None:
            raise unfoldable(kind.__name__, "its logits are not those of one router weight")
        return replace(router, weight_ED=weight_ED)

    def leaves(self) -> list["RouterHead"]:
        """Return its parts that hold no other head, itself if it holds none."""
        parts = [one for one in self.modules() if isinstance(one, RouterHead)]
        return [
            one
            for one in parts
            if not any(isinstance(inner, RouterHead) and inner is not one for inner in one.modules())
        ]

    def beyond_logits(self) -> list[str]:
        """Return the names of those of its parts that do more than change logits."""
        stages = ("select", "admit", "weigh", "mix", "slots_for", "calibrate")
        kinds = {type(one) for one in self.leaves()}
        more = [kind for kind in kinds if any(getattr(kind, one) is not getattr(RouterHead, one) for one in stages)]
        return sorted(kind.__name__ for kind in more)

    def changes_selection(self) -> bool:
        """Whether the selection scores are not simply the logits."""
        return type(self).select is not RouterHead.select

    def changes_weights(self) -> bool:
        """Whether the weights are not simply those of the family's rule."""
        return type(self).weigh is not RouterHead.weigh


def decide(
    head: RouterHead | None, rule: ScoringRule, hidden_TD: Tensor, logits_TE: Tensor, *, stock_ties: bool = False
) -> Decision:
    """Run a head's stages in order and return its decision: every decision of the program is made here.

    Args:
        head: A bound head; ``None`` is the pretrained router.
        rule: The layer's scoring rule.
        hidden_TD: The router's input.
        logits_TE: The pretrained router's logits.
        stock_ties: Let ties fall as they do in the family's own code; otherwise towards the lower index.
    """
    head = _NO_HEAD if head is None else head
    rule = head.allowed(rule)
    logits_TE = rule.barring(head.score(hidden_TD, logits_TE))
    probs_TE = rule.probabilities(logits_TE)
    scores_TE = rule.barring(head.select(logits_TE.float()))
    most = rule.num_experts if rule.left is None else rule.left
    slots = min(max(head.slots_for(rule), rule.top_k), most)  # beside tokens of the pretrained router's K
    if stock_ties and not head.changes_selection():
        experts_TK = rule.stock_choice(logits_TE, probs_TE, slots)
    else:
        experts_TK = rule.choose(scores_TE, slots, stable=not stock_ties)
    used_TK = head.admit(logits_TE.float(), probs_TE, experts_TK)
    if used_TK is not None and stock_ties and not rule.by_row:  # some gates do not put the best first
        experts_TK = rule.choose(scores_TE, slots)
        used_TK = head.admit(logits_TE.float(), probs_TE, experts_TK)
    if used_TK is not None:  # a spare slot repeats an expert that is chosen anyway
        experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1])
    return head.weigh(Decision(rule, logits_TE, probs_TE, experts_TK, used_TK=used_TK))


class _NoHead(RouterHead):
    """The pretrained router's own decision, for tokens that no head acts on."""

    traits = HeadTraits()


_NO_HEAD = _NoHead()


def combined_traits(parts: list[HeadTraits]) -> HeadTraits:
    """Return the traits of several heads applied one after the other.

    Example:
        >>> combined_traits([HeadTraits(trainable=True), HeadTraits(needs_calibration=True)]).trainable
        True
    """
    anyone: dict[str, Any] = {
        field.name: any(getattr(part, field.name) for part in parts) for field in fields(HeadTraits)
    }
    anyone["exact_start"] = all(part.exact_start for part in parts)
    for every in ("foldable", "train_only", "keeps_mass"):
        anyone[every] = all(getattr(part, every) for part in parts)
    return HeadTraits(**{**anyone, "reason": "; ".join(part.reason for part in parts if part.reason)})
