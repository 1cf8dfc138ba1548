"""What the model does before anything is done to it: its answers, its routing, and what enters each layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from moe_tune.base.progress import with_bar
from moe_tune.data.batching import Batch
from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_experts import TunedExperts, expert_outputs
from moe_tune.interventions.heads import Heads
from moe_tune.interventions.walk import Walk, watched_experts, watched_layers
from moe_tune.routing import RouterOutput
from moe_tune.stats.ratios import Floats, ratio

CHUNK = 512
"""Tokens whose expert outputs are held at once."""


@dataclass(slots=True, eq=False)
class LayerFacts:
    """What is known of a layer.

    Args:
        chosen_QE: Whether the question's answer token went to the expert.
        weight_QE: The weight it gave it, 0 where it did not go there.
        saliency_QE: Weight times norm of what the expert said there.
        count_E: Tokens of the scope that chose each expert.
        sum_ED: Sum of what each expert said to them, where means are wanted.
        entering_QD: What enters the layer at each answer token, where that is all there is to it.
        tokens: Tokens of the scope.
    """

    chosen_QE: Tensor
    weight_QE: Tensor
    saliency_QE: Tensor
    count_E: Tensor
    sum_ED: Tensor | None = None
    entering_QD: Tensor | None = None
    tokens: int = 0

    @property
    def usage_E(self) -> Floats:
        """Share of the scope's tokens that chose each expert."""
        return ratio(self.count_E.numpy(), np.array(self.tokens))

    @property
    def mean_ED(self) -> Tensor:
        """What each expert says on average to the tokens that chose it; 0 where none did."""
        assert self.sum_ED is not None
        return self.sum_ED / self.count_E.clamp(min=1)[:, None]


@dataclass(slots=True, eq=False)
class Untouched:
    """What the model does before anything is done to it.

    Args:
        log_probs_QA: Log-probabilities of each question's letters, -inf beyond its choices.
        gold_Q: Index of the right letter.
        layers: What is known of each layer.
    """

    log_probs_QA: Tensor
    gold_Q: Tensor
    layers: dict[int, LayerFacts] = field(default_factory=dict)

    @property
    def right_Q(self) -> Tensor:
        """Log-probability of the right letter."""
        return self.log_probs_QA.gather(1, self.gold_Q[:, None])[:, 0]

    @property
    def correct_Q(self) -> Tensor:
        """Which questions are answered correctly."""
        return self.log_probs_QA.argmax(-1) == self.gold_Q


def seen_untouched(
    walk: Walk, batches: Sequence[Batch], router: Heads, layers: Sequence[int], *, means: bool
) -> Untouched:
    """Return what a model does, in one pass over the questions.

    Args:
        walk: How questions are answered.
        batches: All of them.
        router: The heads that act in the model.
        layers: Which layers are looked at.
        means: Whether the mean outputs of experts are wanted.
    """
    gated, scope = walk.examiner.gated, walk.scope
    questions = sum(len(one.gold_B) for one in batches)
    letters = len(walk.examiner.quiz.letter_token_ids(walk.split))
    untouched = Untouched(torch.empty(questions, letters), torch.empty(questions, dtype=torch.long))
    for batch in with_bar(batches, "as it is"):
        walk.open(batch)
        with watched_layers(gated, layers) as entering, watched_experts(gated, layers) as read, torch.no_grad():
            log_probs_BA = walk.whole(router)
        place_B = batch.question_B.cpu()
        untouched.log_probs_QA[place_B] = log_probs_BA.cpu()
        untouched.gold_Q[place_B] = batch.gold_B.cpu()
        answer_N, _ = gated.trace.rows("answer")
        tokens_N, _ = gated.trace.rows(scope)
        for layer in layers:
            output = gated.trace.outputs[layer]
            width = read[layer].shape[-1]
            if layer not in untouched.layers:
                untouched.layers[layer] = _empty(gated, output, questions, width, means=means)
            facts = untouched.layers[layer]
            _add_answers(facts, gated, output.rows(answer_N), read[layer][answer_N], place_B, layer)
            of_scope = output.rows(tokens_N)
            facts.count_E += of_scope.counts_E().cpu()
            facts.tokens += len(of_scope.mask_T)
            if means:
                _add_outputs(facts, gated, of_scope, read[layer][tokens_N], layer)
            if walk.keeps:
                state_BD = entering[layer][:, 0].cpu()
                if facts.entering_QD is None:
                    facts.entering_QD = state_BD.new_empty(questions, state_BD.shape[-1])
                facts.entering_QD[place_B] = state_BD
    return untouched


def _empty(gated: GatedModel, output: RouterOutput, questions: int, width: int, *, means: bool) -> LayerFacts:
    experts = output.logits_TE.shape[-1]
    zeros_QE = torch.zeros(questions, experts)
    count_E = torch.zeros(experts, dtype=torch.long)
    sum_ED = torch.zeros(experts, width) if means else None
    return LayerFacts(zeros_QE.bool(), zeros_QE.clone(), zeros_QE.clone(), count_E, sum_ED)


def _add_answers(
    facts: LayerFacts, gated: GatedModel, output: RouterOutput, read_BD: Tensor, place_B: Tensor, layer: int
) -> None:
    said_BKD = _outputs(gated, layer, read_BD, output.experts_TK)
    weights_BK = torch.where(output.counted_TK, output.weights_TK.float(), 0.0)
    experts = facts.chosen_QE.shape[1]
    spread = torch.zeros(3, len(read_BD), experts, device=read_BD.device)
    parts = (output.counted_TK.float(), weights_BK, weights_BK * said_BKD.float().norm(dim=-1))
    for place, part in enumerate(parts):
        spread[place].scatter_add_(1, output.experts_TK, part)
    facts.chosen_QE[place_B] = spread[0].cpu() > 0
    facts.weight_QE[place_B], facts.saliency_QE[place_B] = spread[1].cpu(), spread[2].cpu()


def _add_outputs(facts: LayerFacts, gated: GatedModel, output: RouterOutput, read_TD: Tensor, layer: int) -> None:
    assert facts.sum_ED is not None
    token_N, slot_N = output.counted_TK.nonzero(as_tuple=True)
    expert_N = output.experts_TK[token_N, slot_N]
    for part in torch.arange(len(token_N), device=read_TD.device).split(CHUNK):
        said_ND = _outputs(gated, layer, read_TD[token_N[part]], expert_N[part][:, None])[:, 0]
        facts.sum_ED.index_add_(0, expert_N[part].cpu(), said_ND.float().cpu())


def _outputs(gated: GatedModel, layer: int, read_TD: Tensor, experts_TK: Tensor) -> Tensor:
    experts = gated.family.moe_layers(gated.model)[layer].get_submodule(gated.family.experts_path)
    stock = experts.stock if isinstance(experts, TunedExperts) else experts
    with torch.no_grad():
        return expert_outputs(stock, read_TD, experts_TK)
