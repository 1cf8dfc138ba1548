"""The contract everybody reads first: what a router decided, for every token of every MoE layer.

Shape legend, used as name suffix in all routing code:

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

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Scope = Literal["answer", "all"]
"""Where a head acts or a statistic counts: the last prompt token, or every real token (padding never)."""

Part = Literal["instruction", "examples", "stem", "choices"]
"""Parts of a prompt a statistic may count instead; the instruction is the header and the answer cue."""

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How a model family turns router logits into expert weights.

    ``p = softmax(z)`` in float32; ``w = p[S]``, divided by its sum in families that renormalise.

    Args:
        top_k: Experts per token, K.
        num_experts: Experts of the layer, E.
        renormalise: Whether the K weights are divided by their sum (Qwen3-MoE) or not (OLMoE).
    """

    top_k: int
    num_experts: int
    renormalise: bool

    def probabilities(self, logits_TE: Tensor) -> Tensor:
        """Return the softmax over all experts, in float32."""
        return torch.softmax(logits_TE, dim=-1, dtype=torch.float32)

    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        """Return the weights of the chosen experts, 0 in slots that are not in use."""
        weights_TK = probs_TE.gather(-1, experts_TK)
        if used_TK is not None:
            weights_TK = torch.where(used_TK, weights_TK, 0.0)
            return normalised(weights_TK) if self.renormalise else weights_TK
        return weights_TK / weights_TK.sum(-1, keepdim=True) if self.renormalise else weights_TK


@dataclass(frozen=True, slots=True)
class Decision:
    """A routing decision in the making: what the weighing stage of a head reads and returns changed.

    ``weights = rule(probabilities) * scale``, so that heads compose whatever their order.

    Args:
        rule: The family's scoring rule.
        logits_TE: Router logits after the scoring stage.
        probs_TE: Probabilities of all experts.
        experts_TK: Chosen experts, best first.
        scale_TK: Factor on the rule's weights; ``None`` is 1.
        used_TK: False where a slot is only filled up (weight 0); ``None`` when every slot is in use.
    """

    rule: ScoringRule
    logits_TE: Tensor
    probs_TE: Tensor
    experts_TK: Tensor
    scale_TK: Tensor | None = None
    used_TK: Tensor | None = None

    @property
    def weights_TK(self) -> Tensor:
        """The chosen experts' weights, float32."""
        weights_TK = self.rule.weights(self.probs_TE, self.experts_TK, self.used_TK)
        return weights_TK if self.scale_TK is None else weights_TK * self.scale_TK

    def with_probabilities(self, probs_TE: Tensor) -> "Decision":
        """Return the decision with other probabilities; the weights follow by the family's rule."""
        return replace(self, probs_TE=probs_TE)

    def with_scores(self, scores_TE: Tensor) -> "Decision":
        """Return the decision with scores in place of probabilities: they are the weights themselves, times the scale.

        Args:
            scores_TE: Scores of all experts, at least 0; the recorded probabilities are their shares of the sum.
        """
        floor = torch.finfo(scores_TE.dtype).tiny  # where every score is 0, the experts share alike
        total_T1 = scores_TE.sum(-1, keepdim=True)
        probs_TE = torch.where(total_T1 > floor, scores_TE / total_T1.clamp(min=floor), 1 / scores_TE.shape[-1])
        raw = replace(self.rule, renormalise=False)
        return replace(self, rule=raw, probs_TE=probs_TE).scaled(total_T1)

    def scaled(self, factor_TK: Tensor) -> "Decision":
        """Return the decision with its weights multiplied by a factor.

        Args:
            factor_TK: Factor, (T, K) or (T, 1).
        """
        factor_TK = factor_TK.expand(self.experts_TK.shape)
        return replace(self, scale_TK=factor_TK if self.scale_TK is None else self.scale_TK * factor_TK)


@dataclass(slots=True)
class RouterOutput:
    """What one MoE layer's router decided for every token.

    Args:
        logits_TE: Raw router logits, before any softmax.
        probs_TE: The probabilities the decision was made with, whatever the head; never softmax them again.
        weights_TK: Weights the expert outputs are summed with, float32.
        experts_TK: Chosen experts, best first.
        mask_T: True for real tokens, False for padding.
        layer: Index of the layer in the model.
        used_TK: False where a slot is only filled up; ``None`` when every slot is in use.
        base_logits_TE: Logits of the pretrained router on the same hidden states, if something needs them.
        hidden_TD: The router's input, if something needs it.
    """

    logits_TE: Tensor
    probs_TE: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    mask_T: Tensor
    layer: int
    used_TK: Tensor | None = None
    base_logits_TE: Tensor | None = None
    hidden_TD: Tensor | None = None

    def rows(self, mask_T: Tensor | slice) -> "RouterOutput":
        """Return the output for some of the tokens only.

        Args:
            mask_T: Which tokens to keep, as a mask, as indices or as a slice (which copies nothing).
        """

        def keep(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[mask_T]

        return RouterOutput(
            logits_TE=self.logits_TE[mask_T],
            probs_TE=self.probs_TE[mask_T],
            weights_TK=self.weights_TK[mask_T],
            experts_TK=self.experts_TK[mask_T],
            mask_T=self.mask_T[mask_T],
            layer=self.layer,
            used_TK=keep(self.used_TK),
            base_logits_TE=keep(self.base_logits_TE),
            hidden_TD=keep(self.hidden_TD),
        )

    def counts_E(self) -> Tensor:
        """Return how many tokens chose each expert, filled-up slots and padding left out."""
        used_TK = self.mask_T[:, None].expand_as(self.experts_TK)
        if self.used_TK is not None:
            used_TK = used_TK & self.used_TK
        counts = torch.zeros(self.logits_TE.shape[-1], dtype=torch.long, device=self.experts_TK.device)
        return counts.index_add_(0, self.experts_TK.reshape(-1), used_TK.reshape(-1).long())


@dataclass(slots=True)
class RoutingTrace:
    """The routing of one forward pass: one ``RouterOutput`` per MoE layer, in layer order.

    Open only during the forward call: what gradient checkpointing computes again in the backward pass is not
    recorded a second time.

    Args:
        real_T: True for real tokens, False for padding.
        answer_T: True at the answer position of each question (its last real token).
        question_T: Index within the batch of the question a token belongs to.
        needs: Costly extras to record: ``hidden``, ``base_logits``.
        answer_only: The forward pass saw answer tokens alone (the answer path); nothing is known of the others.
        part_T: Index in ``PARTS`` of the prompt part each token belongs to, -1 at padding; ``None`` when unknown.
    """

    real_T: Tensor
    answer_T: Tensor
    question_T: Tensor
    needs: frozenset[str] = frozenset()
    answer_only: bool = False
    part_T: Tensor | None = None
    outputs: dict[int, RouterOutput] = field(default_factory=dict)
    is_open: bool = True
    _cuts: dict[str, list[RouterOutput]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_batch(cls, attention_mask_BS: Tensor, needs: frozenset[str] = frozenset()) -> "RoutingTrace":
        """Open a trace for a padded batch; the answer position is the last real token, whichever side is padded.

        Args:
            attention_mask_BS: 1 for real tokens, 0 for padding.
            needs: Costly extras to record.

        Example:
            >>> trace = RoutingTrace.of_batch(torch.tensor([[1, 1, 0], [0, 1, 1]]))
            >>> trace.answer_T.nonzero().flatten().tolist()
            [1, 5]
        """
        real_BS = attention_mask_BS.bool()
        questions, positions = real_BS.shape
        place_S = torch.arange(positions, device=real_BS.device)
        last_B = torch.where(real_BS, place_S, -1).max(dim=1).values
        answer_BS = real_BS & (place_S[None] == last_B[:, None])
        question_BS = torch.arange(questions, device=real_BS.device)[:, None].expand(questions, positions)
        return cls(real_BS.reshape(-1), answer_BS.reshape(-1), question_BS.reshape(-1), needs)

    @classmethod
    def of_answers(
        cls, questions: int, heads: int, device: torch.device, needs: frozenset[str] = frozenset()
    ) -> "RoutingTrace":
        """Open a trace for a batch of answer tokens, one per question and head; those of a question are neighbours.

        Args:
            questions: Questions in the batch, B.
            heads: Router heads compared, N.
            device: Where the batch is.
            needs: Costly extras to record.
        """
        every_T = torch.ones(questions * heads, dtype=torch.bool, device=device)
        question_T = torch.arange(questions, device=device).repeat_interleave(heads)
        return cls(every_T, every_T, question_T, needs, answer_only=True)

    def of_head(self, index: int, heads: int) -> "RoutingTrace":
        """Return the part of a trace of answer tokens that belongs to one of several heads.

        Args:
            index: Which head, from 0.
            heads: How many were compared, N.
        """
        rows = slice(index, None, heads)
        outputs = {layer: output.rows(rows) for layer, output in self.outputs.items()}
        return replace(
            self,
            real_T=self.real_T[rows],
            answer_T=self.answer_T[rows],
            question_T=self.question_T[rows],
            outputs=outputs,
        )

    def mask(self, scope: Scope | Part) -> Tensor:
        """Return the tokens of a scope or a prompt part, (T,).

        Raises:
            RuntimeError: All tokens are asked for but only the answer tokens were seen, or the parts are not known.
        """
        if scope == "answer":
            return self.answer_T
        if self.answer_only:
            raise RuntimeError("all tokens were asked of a trace that holds answer tokens alone")
        if scope == "all":
            return self.real_T
        if self.part_T is None:
            raise RuntimeError(f"the tokens of the {scope} were asked of a trace that does not know the parts")
        return self.part_T == PARTS.index(scope)

    def record(self, output: RouterOutput) -> None:
        """Keep a layer's output while the trace is open; drop it afterwards."""
        if self.is_open:
            self.outputs[output.layer] = output
            self.forget()

    def at(self, scope: Scope | Part) -> Iterator[RouterOutput]:
        """Return each layer's output restricted to the tokens of a scope, in layer order.

        Without gradients, as metrics read it, the tokens are cut out once and kept until ``forget``.
        """
        if torch.is_grad_enabled():  # a loss: nothing is kept alive beside its graph
            return self._cut(scope)
        if scope not in self._cuts:
            self._cuts[scope] = list(self._cut(scope))
        return iter(self._cuts[scope])

    def forget(self) -> None:
        """Let go of the tokens that were cut out."""
        self._cuts.clear()

    def _cut(self, scope: Scope | Part) -> Iterator[RouterOutput]:
        mask_T = self.mask(scope)
        index_T = mask_T.nonzero().squeeze(-1)
        keep = slice(None) if len(index_T) == len(mask_T) else index_T
        for layer in sorted(self.outputs):
            yield self.outputs[layer].rows(keep)


def stable_top_k(scores_TE: Tensor, top_k: int) -> Tensor:
    """Return the indices of the K largest scores per token, ties broken towards the lower index.

    Args:
        scores_TE: Selection scores.
        top_k: K, at most E.

    Example:
        >>> stable_top_k(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 2).tolist()
        [[1, 2]]
    """
    return torch.sort(scores_TE, dim=-1, descending=True, stable=True).indices[:, :top_k]


def normalised(weights_TK: Tensor) -> Tensor:
    """Return weights divided by their sum per token."""
    return weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=torch.finfo(weights_TK.dtype).tiny)


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy in nats of distributions along the last axis; ``0 ln 0 = 0``.

    Args:
        probs: Probabilities that sum to one along the last axis.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([0.6931])
    """
    floor = torch.finfo(probs.dtype).tiny  # keeps the gradient finite where a probability underflows
    return -(probs * probs.clamp(min=floor).log()).sum(-1)
