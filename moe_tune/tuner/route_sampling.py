"""Routes sampled for each question at one layer, and how well it is answered by each."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from moe_tune.answer_path.states import PromptStates
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.wrapper import WrapperHead
from moe_tune.losses.base import RouteSampling
from moe_tune.routing import RouterOutput, SampledRoutes, stable_top_k
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.objective import judge
from moe_tune.tuner.offsets import on_answer_path

SIDE_BY_SIDE = 8
"""Routes of a question that go through the model at once: the logits over the vocabulary are what takes memory."""


class _SampledRoute(WrapperHead):
    """Chooses the K largest of the inner head's scores plus noise; the weights are those of the scores as they are.

    Args:
        head: The inner head.
        noise_BE: Noise, one row per token it acts on.
        top_k: K.
    """

    traits = HeadTraits()

    def __init__(self, head: RouterHead, noise_BE: Tensor, top_k: int) -> None:
        super().__init__(head)
        self.noise_BE, self.top_k = noise_BE, top_k

    def select(self, scores_TE: Tensor) -> Tensor:
        scores_TE = self.head.select(scores_TE)
        route_TK = stable_top_k(scores_TE + self.noise_BE, self.top_k)
        outside_TE = torch.ones_like(scores_TE, dtype=torch.bool).scatter_(-1, route_TK, False)
        return scores_TE.masked_fill(outside_TE, -torch.inf)

    def changes_selection(self) -> bool:
        return True


def sampled_routes(examiner: Examiner, split: str, layer: int, sampling: RouteSampling) -> SampledRoutes:
    """Return routes of a layer at the answer position, Gumbel-top-k, and the log-probability of the right letter.

    Formula: ``r = topK(z + g)``, g standard Gumbel noise, z the pretrained router's logits; ``u = log p(right letter)``
    of the forward pass with ``r`` in this layer, weighted by the model's rule from z, and the pretrained routers in all
    others. The noise of a question depends on the seed and its index in the split alone.

    Raises:
        ConfigError: The answer path is not exact here, or choices' texts are scored.
    """
    examiner.settle(split)  # which questions there are: above the cache's limit a sample
    examiner = on_answer_path(examiner, split, [layer])
    examiner.prepare([split])
    parts = []
    with torch.no_grad(), examiner.numerics():
        for batch in examiner.quiz.loader(split):
            experts_BNK, log_probs_BNA = answered_routes(examiner, batch, split, layer, sampling)
            gold_BN1 = batch.gold_B.cpu()[:, None, None].expand(-1, sampling.routes, 1)
            utility_BN = log_probs_BNA.gather(-1, gold_BN1).squeeze(-1)
            parts.append((batch.question_B, experts_BNK, utility_BN))
    question_Q, experts_QNK, utility_QN = (joined_over_ranks(torch.cat(one)) for one in zip(*parts, strict=True))
    order_Q = question_Q.argsort()
    return SampledRoutes({layer: experts_QNK[order_Q]}, {layer: utility_QN[order_Q]})


def answered_routes(
    examiner: Examiner,
    batch: Batch,
    split: str,
    layer: int,
    sampling: RouteSampling,
    heads: Mapping[int, RouterHead] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sampled routes of a batch's questions, and the log-probabilities of the choices by each.

    Args:
        examiner: Who asks, on the answer path from the layer down.
        batch: The questions.
        split: Their split.
        layer: Where routes are sampled.
        sampling: How.
        heads: Bound heads that stand beside the sampling, and in its layer give the scores; ``None`` are none.

    Shape:
        - (B, N, K) int16 and (B, N, A), on the CPU.
    """
    heads = heads or {}
    rule, inner = examiner.gated.gates[layer].rule, heads.get(layer, IdentityHead())
    noise_BNE = _gumbel(batch.question_B, sampling, rule.num_experts).to(examiner.gated.device)
    batch = batch.to(examiner.gated.device)
    states = examiner.answering.states(batch, split)
    experts, log_probs = [], []
    for noise in noise_BNE.split(SIDE_BY_SIDE, dim=1):
        drawn = [{**heads, layer: _SampledRoute(inner, one_BE, rule.top_k).eval()} for one_BE in noise.unbind(1)]
        output, log_probs_MA = _answered(examiner, batch, states, split, layer, drawn)
        chosen_BNK = output.experts_TK.unflatten(0, (-1, len(drawn)))
        experts.append(chosen_BNK.to(torch.int16).cpu())  # 32 routes of 100,000 questions
        log_probs.append(log_probs_MA.unflatten(0, (-1, len(drawn))).cpu())
    return torch.cat(experts, dim=1), torch.cat(log_probs, dim=1)


def own_route(
    examiner: Examiner, batch: Batch, split: str, layer: int, heads: Mapping[int, RouterHead]
) -> tuple[Tensor, Tensor]:
    """Return the probabilities of a layer's experts, (B, E), and of the choices by the router's own route, (B, A), log.

    The arguments are those of ``answered_routes``; the results are on the CPU.
    """
    batch = batch.to(examiner.gated.device)
    states = examiner.answering.states(batch, split)
    output, log_probs_BA = _answered(examiner, batch, states, split, layer, [heads])
    return output.probs_TE.cpu(), log_probs_BA.cpu()


def _gumbel(question_B: Tensor, sampling: RouteSampling, experts: int) -> Tensor:
    """Return the noise of a batch's questions, (B, N, E)."""
    draws = [np.random.default_rng([sampling.seed, index]) for index in question_B.tolist()]
    return torch.from_numpy(np.stack([draw.gumbel(size=(sampling.routes, experts)) for draw in draws])).float()


def _answered(
    examiner: Examiner,
    batch: Batch,
    states: PromptStates,
    split: str,
    layer: int,
    heads: Sequence[Mapping[int, RouterHead]],
) -> tuple[RouterOutput, Tensor]:
    """Return what heads side by side decide in a layer, B x N tokens, and how the choices fare, (B x N, A)."""
    letters = examiner.quiz.letter_token_ids(split)
    with examiner.gated.session(heads, scope="answer", needs=()) as session:
        logits_MV = examiner.answering.logits_of(states, batch, split).float()
        assert session.trace is not None
        output = session.trace.outputs[layer]
    judged = judge(logits_MV, batch, letters, examiner.task_loss, f"{split} split, sampled routes")
    return output, judged.log_probs_BA
