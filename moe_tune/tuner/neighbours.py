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
    """Questions as points on a sphere.

    Args:
        embedding_QD: Mean of the pretrained model's last hidden states over the prompt, less the training questions'
            mean, of length one; on the model's device.
        hashes: What each question is: equal for copies.
        centre_D: The training questions' mean.
    """

    embedding_QD: Tensor
    hashes: list[str]
    centre_D: Tensor

    @classmethod
    def of_training(cls, examiner: Examiner) -> "EmbeddedQuestions":
        """Return the training questions, from one pass of the pretrained model over whole prompts."""
        examiner.settle(SPLIT)  # which questions there are
        mean_QD = _mean_hidden(examiner, SPLIT)
        return cls._of(examiner, SPLIT, mean_QD, mean_QD.mean(0))

    def of_split(self, examiner: Examiner, split: str) -> "EmbeddedQuestions":
        """Return those of another split among these, from a pass over its prompts; no answer is looked at."""
        return self._of(examiner, split, _mean_hidden(examiner, split), self.centre_D)

    @classmethod
    def _of(cls, examiner: Examiner, split: str, mean_QD: Tensor, centre_D: Tensor) -> "EmbeddedQuestions":
        embedding_QD = torch.nn.functional.normalize(mean_QD - centre_D, dim=-1)
        return cls(embedding_QD, [one.content_hash for one in examiner.quiz.questions(split)], centre_D)

    def nearest(
        self, allowed_Q: Tensor, to: "EmbeddedQuestions | None" = None, count: int = NEIGHBOURS
    ) -> tuple[Tensor, Tensor]:
        """Return each question's nearest among those allowed here, itself and its copies left out, and their weights.

        Formula: ``d^2 = 2 (1 - cos)``; ``W = exp(-d^2 / 2 s^2)`` divided by its sum, ``s`` the median over the
        questions here of the distance to the last of ``count``.

        Args:
            allowed_Q: Which questions may be neighbours.
            to: The questions whose neighbours are looked for; ``None`` for those here.
            count: How many at most.

        Shape:
            - returns two of (Q, N), N = ``count`` or as many as are allowed; what is missing weighs 0.
        """
        choice_R = allowed_Q.nonzero().squeeze(-1)
        near_QN, squared_QN = own_QN = self._ordered(self, choice_R, count)
        if to is not None:
            near_QN, squared_QN = self._ordered(to, choice_R, count)
        if not len(choice_R):
            return near_QN, squared_QN
        last_Q = own_QN[1][:, -1].sqrt()
        scale = last_Q[last_Q.isfinite()].median() if last_Q.isfinite().any() else torch.tensor(1.0)
        tiny = torch.finfo(torch.float32).tiny
        weight_QN = (-squared_QN / (2 * scale.square()).clamp(min=tiny)).exp()
        return near_QN, weight_QN / weight_QN.sum(-1, keepdim=True).clamp(min=tiny)

    def _ordered(self, to: "EmbeddedQuestions", choice_R: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the nearest of a choice of the questions here and their squared distances, infinite to copies."""
        numbers = {one: number for number, one in enumerate(dict.fromkeys([*self.hashes, *to.hashes]))}
        device = self.embedding_QD.device
        choice_R, chosen_RD = choice_R.to(device), self.embedding_QD[choice_R.to(device)]
        mine_R = torch.tensor([numbers[one] for one in self.hashes], device=device)[choice_R]
        theirs_Q = torch.tensor([numbers[one] for one in to.hashes], device=device)
        near, squared = [], []
        for rows in torch.arange(len(theirs_Q), device=device).split(CHUNK):
            squared_CR = 2 * (1 - to.embedding_QD[rows] @ chosen_RD.T).clamp(min=0)
            squared_CR[theirs_Q[rows][:, None] == mine_R[None]] = torch.inf
            nearest = squared_CR.topk(min(count, len(choice_R)), largest=False)
            near.append(choice_R[nearest.indices].cpu())
            squared.append(nearest.values.cpu())
        return torch.cat(near), torch.cat(squared)


def _mean_hidden(examiner: Examiner, split: str) -> Tensor:
    """Return the mean of the pretrained model's last hidden states over each prompt, in the order of the questions."""
    gated, parts = examiner.gated, []
    body: Any = gated.model.base_model
    with torch.no_grad(), gated.session(needs=(), base_only=True), examiner.numerics():
        for batch in (one.to(gated.device) for one in examiner.quiz.loader(split)):
            place_S = torch.arange(batch.input_ids_BS.shape[1], device=gated.device)
            prompt_BS = (place_S <= batch.answer_position_B[:, None]).long()
            ids_BS = batch.input_ids_BS * prompt_BS  # a cloze question's choices come behind its prompt
            hidden_BSD = body(input_ids=ids_BS, attention_mask=prompt_BS, use_cache=False).last_hidden_state
            mean_BD = (hidden_BSD.float() * prompt_BS[..., None]).sum(1) / prompt_BS.sum(1, keepdim=True)
            parts.append((batch.question_B.cpu(), mean_BD.cpu()))
    question_Q, mean_QD = (joined_over_ranks(torch.cat(one)) for one in zip(*parts, strict=True))
    return mean_QD[question_Q.argsort()].to(gated.device)


def neighbour_routes(examiner: Examiner, embedded: EmbeddedQuestions, layers: Iterable[int]) -> NeighbourRoutes:
    """Return how the nearest correctly answered training questions are routed, with the heads as they are now."""
    with examiner.gated.session([], everywhere=True):
        recorder = examiner.evaluate(SPLIT, _Routes(tuple(layers)))
    return recorder.routes(embedded)


class _Routes:
    """Keeps the probabilities at the answer position, and who is right."""

    needs = frozenset[str]()
    reads_mass = False

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
