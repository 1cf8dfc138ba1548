"""The routing oracle: offsets of the router logits, sought question by question, that answer it correctly."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.losses.base import OracleSearch
from moe_tune.routing import OracleRoutes
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.objective import judge
from moe_tune.tuner.offsets import Offsets, examiner_of, on_answer_path

UPPER_BOUND = OracleSearch(steps=50, rate=0.05)
"""How far ``routing_oracle`` seeks."""


@dataclass(frozen=True, slots=True, eq=False)
class SoughtRouting:
    """What a search with the right answers in hand has come to; over-optimistic as a measure of any router.

    Args:
        routes: The routing that was found, and which questions it answers correctly.
        log_probs_QA: Log-probabilities of each question's letters under it, -inf beyond its choices; in their order.
        before_QA: Those of the pretrained routers.
        gold_Q: Index of the right letter.
    """

    routes: OracleRoutes
    log_probs_QA: Tensor
    before_QA: Tensor
    gold_Q: Tensor

    def summary(self) -> dict[str, float]:
        """Return accuracy and mean loss before and after; those after are bounds that know the answers."""
        numbers = {}
        for name, log_probs_QA in (("pretrained", self.before_QA), ("over_optimistic", self.log_probs_QA)):
            right_Q = log_probs_QA.argmax(-1) == self.gold_Q
            numbers[f"{name}_accuracy"] = float(right_Q.double().mean())
            numbers[f"{name}_loss"] = float(-log_probs_QA.gather(1, self.gold_Q[:, None]).double().mean())
        return numbers


def routing_oracle(
    gated: GatedModel,
    questions: QuizDataModule,
    split: str = "validation",
    search: OracleSearch = UPPER_BOUND,
    answer_path: AnswerPath | None = None,
) -> SoughtRouting:
    """Return how a model would do if its routers, in the layers with a head, knew each question's answer.

    It looks at the right answers of the very questions it is measured on: an upper bound of what routing at the answer
    position can do, over-optimistic by construction, and never a result of a router.

    Args:
        gated: The model with heads on it; they do not act.
        questions: What ``quiz`` returned for the same base model.
        split: ``train``, ``validation``, ``test``, or another name of ``questions.test_names``.
        search: How it is sought.
        answer_path: Where prompts are kept; ``None`` keeps nothing.

    Raises:
        ConfigError: The family does not allow the answer path, there is a LoRA, or choices' texts are scored.
    """
    return sought_routing(examiner_of(gated, questions, answer_path), split, gated.layers, search)


def sought_routing(examiner: Examiner, split: str, layers: Iterable[int], search: OracleSearch) -> SoughtRouting:
    """Return the routing at the answer position that Adam finds for each question of a split, by itself, from 0.

    Formula: ``d* = argmin_d CE(answer; z_l + d_l, l in layers)`` with the pretrained routers' ``z`` at every step.

    Raises:
        ConfigError: The answer path is not exact here, or choices' texts are scored.
    """
    examiner.settle(split)  # which questions there are: above the cache's limit a sample
    examiner, layers = on_answer_path(examiner, split, layers), sorted(layers)
    parts = []
    with torch.inference_mode(mode=False), torch.enable_grad():
        examiner.prepare([split])
        for batch in examiner.quiz.loader(split):
            parts.append(_sought(examiner, batch.to(examiner.gated.device), split, layers, search))
    order_Q = joined_over_ranks(torch.cat([one["question"] for one in parts])).argsort()
    joined = {name: joined_over_ranks(torch.cat([one[name] for one in parts]))[order_Q] for name in parts[0]}
    right_Q = joined["after"].argmax(-1) == joined["gold"]
    routes = OracleRoutes({layer: joined[f"layer {layer}"] for layer in layers}, right_Q)
    return SoughtRouting(routes, joined["after"], joined["before"], joined["gold"])


def _sought(examiner: Examiner, batch: Batch, split: str, layers: list[int], search: OracleSearch) -> dict[str, Tensor]:
    """Return what is found for a batch, on the CPU."""
    gated, answering = examiner.gated, examiner.answering
    offsets = Offsets(gated, layers, len(batch.gold_B), search.rate)
    own_B = torch.arange(len(batch.gold_B), device=gated.device)
    letters = examiner.quiz.letter_token_ids(split)
    with gated.session([offsets.heads(own_B)], scope="answer", needs=()) as session, examiner.numerics():
        states = answering.states(batch, split)
        for step in range(search.steps + 1):
            logits_BV = answering.logits_of(states, batch, split).float()
            judged = judge(logits_BV, batch, letters, examiner.task_loss, f"{split} split, routing oracle")
            if step == 0:
                before_BA = judged.log_probs_BA.detach()
            if step < search.steps:
                offsets.step(judged.loss_B.sum())
        assert session.trace is not None
        probs = {f"layer {layer}": session.trace.outputs[layer].probs_TE for layer in layers}
    found = {"question": batch.question_B, "gold": batch.gold_B, "before": before_BA, "after": judged.log_probs_BA}
    return {name: value.detach().cpu() for name, value in {**found, **probs}.items()}
