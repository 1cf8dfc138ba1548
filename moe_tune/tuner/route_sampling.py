"""Routes sampled for each question at one layer, and how well it is answered by each."""

import numpy as np
import torch
from torch import Tensor

from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.losses.base import RouteSampling
from moe_tune.routing import SampledRoutes, stable_top_k
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.objective import judge
from moe_tune.tuner.offsets import on_answer_path

SIDE_BY_SIDE = 8
"""Routes of a question that go through the model at once: the logits over the vocabulary are what takes memory."""


class _SampledRoute(RouterHead):
    """Chooses the K largest of logit plus noise; the weights are the rule's, of the logits as they are.

    Args:
        noise_BE: Noise, one row per token it acts on.
        top_k: K.
    """

    traits = HeadTraits()

    def __init__(self, noise_BE: Tensor, top_k: int) -> None:
        super().__init__()
        self.noise_BE, self.top_k = noise_BE, top_k

    def select(self, scores_TE: Tensor) -> Tensor:
        route_TK = stable_top_k(scores_TE + self.noise_BE, self.top_k)
        outside_TE = torch.ones_like(scores_TE, dtype=torch.bool).scatter_(-1, route_TK, False)
        return scores_TE.masked_fill(outside_TE, -torch.inf)


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
            noise_BNE = _gumbel(batch.question_B, sampling, examiner.gated.gates[layer].rule.num_experts)
            parts.append((batch.question_B, *_answered(examiner, batch, split, layer, noise_BNE)))
    question_Q, experts_QNK, utility_QN = (joined_over_ranks(torch.cat(one)) for one in zip(*parts, strict=True))
    order_Q = question_Q.argsort()
    return SampledRoutes({layer: experts_QNK[order_Q]}, {layer: utility_QN[order_Q]})


def _gumbel(question_B: Tensor, sampling: RouteSampling, experts: int) -> Tensor:
    """Return the noise of a batch's questions, (B, N, E)."""
    draws = [np.random.default_rng([sampling.seed, index]) for index in question_B.tolist()]
    return torch.from_numpy(np.stack([draw.gumbel(size=(sampling.routes, experts)) for draw in draws])).float()


def _answered(examiner: Examiner, batch: Batch, split: str, layer: int, noise_BNE: Tensor) -> tuple[Tensor, Tensor]:
    """Return the routes of a batch, (B, N, K), and their utilities, (B, N), on the CPU."""
    gated, answering, letters = examiner.gated, examiner.answering, examiner.quiz.letter_token_ids(split)
    batch, top_k = batch.to(gated.device), gated.gates[layer].rule.top_k
    states = answering.states(batch, split)
    experts, utility = [], []
    for noise in noise_BNE.to(gated.device).split(SIDE_BY_SIDE, dim=1):
        heads = [{layer: _SampledRoute(noise_BE, top_k).eval()} for noise_BE in noise.unbind(1)]
        with gated.session(heads, scope="answer", needs=()) as session:
            logits_MV = answering.logits_of(states, batch, split).float()
            assert session.trace is not None
            experts_MK = session.trace.outputs[layer].experts_TK
        judged = judge(logits_MV, batch, letters, examiner.task_loss, f"{split} split, sampled routes")
        gold_M1 = batch.gold_B.repeat_interleave(len(heads))[:, None]
        experts.append(
            experts_MK.unflatten(0, (-1, len(heads))).to(torch.int16).cpu()
        )  # 32 routes of 100,000 questions
        utility.append(judged.log_probs_BA.gather(1, gold_M1).view(-1, len(heads)).cpu())
    return torch.cat(experts, dim=1), torch.cat(utility, dim=1)
