"""Which training questions are alike, and how those are routed that are answered correctly."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.routing import NeighbourRoutes, RoutingTrace
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.judged import Judged

SPLIT = "train"
NEIGHBOURS = 3
CHUNK = 1024
"""Questions whose distances to all others are held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedQuestions:
    """The training questions as points on a sphere.

    Args:
        embedding_QD: Mean of the pretrained model's last hidden states over the prompt, less its mean over the
            questions, of length one.
        copies_Q: Equal numbers for copies of one question.
    """

    embedding_QD: Tensor
    copies_Q: Tensor

    @classmethod
    def of_training(cls, examiner: Examiner) -> "EmbeddedQuestions":
        """Return them from one pass of the pretrained model over whole prompts."""
        examiner.settle(SPLIT)  # which questions there are
        gated, parts = examiner.gated, []
        body: Any = gated.model.base_model
        with torch.no_grad(), gated.session(needs=(), base_only=True), examiner.numerics():
            for batch in (one.to(gated.device) for one in examiner.quiz.loader(SPLIT)):
                place_S = torch.arange(batch.input_ids_BS.shape[1], device=gated.device)
                prompt_BS = (place_S <= batch.answer_position_B[:, None]).long()
                ids_BS = batch.input_ids_BS * prompt_BS  # a cloze question's choices come behind its prompt
                hidden_BSD = body(input_ids=ids_BS, attention_mask=prompt_BS, use_cache=False).last_hidden_state
                mean_BD = (hidden_BSD.float() * prompt_BS[..., None]).sum(1) / prompt_BS.sum(1, keepdim=True)
                parts.append((batch.question_B.cpu(), mean_BD.cpu()))
        question_Q, mean_QD = (joined_over_ranks(torch.cat(one)) for one in zip(*parts, strict=True))
        mean_QD = mean_QD[question_Q.argsort()]
        hashes = [one.content_hash for one in examiner.quiz.questions(SPLIT)]
        known = {one: number for number, one in enumerate(dict.fromkeys(hashes))}
        embedding_QD = torch.nn.functional.normalize(mean_QD - mean_QD.mean(0), dim=-1)
        return cls(embedding_QD, torch.tensor([known[one] for one in hashes]))

    def nearest(self, allowed_Q: Tensor, count: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
        """Return each question's nearest among those allowed, itself and its copies left out, and their weights.

        Formula: ``d^2 = 2 (1 - cos)``; ``W = exp(-d^2 / 2 s^2)`` divided by its sum, ``s`` the median over questions of
        the distance to the last of ``count``.

        Shape:
            - returns two of (Q, N), N = ``count`` or as many as are allowed; what is missing weighs 0.
        """
        choice_R = allowed_Q.nonzero().squeeze(-1)
        near, squared = [], []
        for rows in torch.arange(len(self.copies_Q)).split(CHUNK):
            squared_CR = 2 * (1 - self.embedding_QD[rows] @ self.embedding_QD[choice_R].T).clamp(min=0)
            squared_CR[self.copies_Q[rows][:, None] == self.copies_Q[choice_R][None]] = torch.inf
            nearest = squared_CR.topk(min(count, len(choice_R)), largest=False)
            near.append(choice_R[nearest.indices])
            squared.append(nearest.values)
        squared_QN = torch.cat(squared)
        if not squared_QN.shape[1]:
            return torch.cat(near), squared_QN
        last_Q = squared_QN[:, -1].sqrt()
        scale = last_Q[last_Q.isfinite()].median() if last_Q.isfinite().any() else torch.tensor(1.0)
        weight_QN = (-squared_QN / (2 * scale.square()).clamp(min=torch.finfo(torch.float32).tiny)).exp()
        return torch.cat(near), weight_QN / weight_QN.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def neighbour_routes(examiner: Examiner, embedded: EmbeddedQuestions, layers: Iterable[int]) -> NeighbourRoutes:
    """Return how the nearest correctly answered training questions are routed, with the heads as they are now."""
    with examiner.gated.session([]):
        recorder = examiner.evaluate(SPLIT, _Routes(tuple(layers)))
    return recorder.routes(embedded)


class _Routes:
    """Keeps the probabilities at the answer position, and who is right."""

    needs = frozenset[str]()

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.parts: list[tuple[Tensor, ...]] = []

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        outputs = {one.layer: one.rows(trace.first_answers()) for one in trace.at("answer")}
        correct_B = judged.log_probs_BA.argmax(-1) == batch.gold_B
        row = (batch.question_B, correct_B, *(outputs[layer].probs_TE for layer in self.layers))
        self.parts.append(tuple(value.cpu() for value in row))

    def routes(self, embedded: EmbeddedQuestions) -> NeighbourRoutes:
        question_Q, correct_Q, *probs = (joined_over_ranks(torch.cat(one)) for one in zip(*self.parts, strict=True))
        order_Q = question_Q.argsort()
        neighbour_QN, weight_QN = embedded.nearest(correct_Q[order_Q])
        probs_RE = {layer: one[order_Q] for layer, one in zip(self.layers, probs, strict=True)}
        return NeighbourRoutes(probs_RE, neighbour_QN, weight_QN)
