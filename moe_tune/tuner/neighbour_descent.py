"""Routing re-mixed for each question by gradient descent on its neighbours' answers (C3PO)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.losses.base import OracleSearch
from moe_tune.routing import RoutingTrace
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.neighbours import SPLIT, EmbeddedQuestions
from moe_tune.tuner.objective import judge
from moe_tune.tuner.offsets import Offsets, examiner_of, on_answer_path

PUBLISHED = OracleSearch(steps=10, rate=0.01)
"""How far ``neighbour_descent`` goes."""


@dataclass(frozen=True, slots=True, eq=False)
class Descended:
    """How the questions of a split are answered with their routing re-mixed.

    Args:
        log_probs_QA: Log-probabilities of each question's letters, -inf beyond its choices; in their order.
        before_QA: Those of the pretrained routers.
        gold_Q: Index of the right letter.
    """

    log_probs_QA: Tensor
    before_QA: Tensor
    gold_Q: Tensor

    def summary(self) -> dict[str, float]:
        """Return accuracy and mean loss before and after."""
        numbers = {}
        for name, log_probs_QA in (("pretrained_", self.before_QA), ("", self.log_probs_QA)):
            right_Q = log_probs_QA.argmax(-1) == self.gold_Q
            numbers[f"{name}accuracy"] = float(right_Q.double().mean())
            numbers[f"{name}loss"] = float(-log_probs_QA.gather(1, self.gold_Q[:, None]).double().mean())
        return numbers


def neighbour_descent(
    gated: GatedModel,
    questions: QuizDataModule,
    split: str = "validation",
    search: OracleSearch = PUBLISHED,
    answer_path: AnswerPath | None = None,
) -> Descended:
    """Return how a split is answered when each question's routing goes down the loss of its neighbours.

    Formula: ``d = argmin sum_j k_j CE(answer of j; z_l + d_l)``, Adam from 0, then the question itself with ``z_l +
    d_l``, at the answer position of the layers with a head; j are its 3 nearest among the training questions that the
    pretrained routers answer correctly, ``k_j`` their weights as ``ManifoldLoss`` has them. The question's own answer
    is never looked at. It costs ``steps`` passes over three tokens per question, and one over whole prompts.

    Args:
        gated: The model with heads on it; they do not act.
        questions: What ``quiz`` returned for the same base model.
        split: ``validation``, ``test``, or another name of ``questions.test_names``.
        search: How far it goes.
        answer_path: Where prompts are kept; ``None`` keeps nothing.

    Raises:
        ConfigError: The family does not allow the answer path, there is a LoRA, or choices' texts are scored.

    Reference:
        Li et al. 2025, "C3PO", https://arxiv.org/abs/2504.07964, its gradient form. Its released code holds only the
        form without gradients, so the loss, Adam and its steps are from the paper, the embedding and the kernel's width
        this project's, and the core experts are left out.
    """
    asked = examiner_of(gated, questions, answer_path)
    for name in (SPLIT, split):
        asked.settle(name)
    examiner = on_answer_path(asked, split, gated.layers)
    train = EmbeddedQuestions.of_training(examiner)
    with gated.session([], base_only=True):
        right_Q = examiner.evaluate(SPLIT, _Right()).by_question()
    near_QN, weight_QN = train.nearest(right_Q, train.of_split(examiner, split))
    parts = []
    with torch.inference_mode(mode=False), torch.enable_grad():
        examiner.prepare([SPLIT, split])
        for batch in examiner.quiz.loader(split):
            rows_B = batch.question_B
            parts.append(
                _descended(examiner, batch.to(gated.device), split, near_QN[rows_B], weight_QN[rows_B], search)
            )
    order_Q = joined_over_ranks(torch.cat([one["question"] for one in parts])).argsort()
    after, before, gold = (
        joined_over_ranks(torch.cat([one[name] for one in parts]))[order_Q] for name in ("after", "before", "gold")
    )
    return Descended(after, before, gold)


def _descended(
    examiner: Examiner, batch: Batch, split: str, near_BN: Tensor, weight_BN: Tensor, search: OracleSearch
) -> dict[str, Tensor]:
    """Return what a batch answers before and after, on the CPU."""
    gated, answering, quiz = examiner.gated, examiner.answering, examiner.quiz
    size, device = len(batch.gold_B), gated.device
    offsets, own_B = Offsets(gated, gated.layers, size, search.rate), torch.arange(size, device=device)

    def answered(one: Batch, name: str, states: Any) -> Judged:
        logits_BV = answering.logits_of(states, one, name).float()
        return judge(logits_BV, one, quiz.letter_token_ids(name), examiner.task_loss, f"{name} split, neighbours")

    with examiner.numerics():
        if near_BN.shape[1]:
            dataset: Any = quiz.loader(SPLIT).dataset
            theirs: Batch = dataset[near_BN.flatten().tolist()].to(device)
            weight_M = weight_BN.flatten().to(device)
            of_whom_M = own_B.repeat_interleave(near_BN.shape[1])
            with gated.session([offsets.heads(of_whom_M)], scope="answer", needs=()):
                states = answering.states(theirs, SPLIT)
                for _ in range(search.steps):
                    offsets.step((answered(theirs, SPLIT, states).loss_B * weight_M).sum())
        with torch.no_grad():
            states = answering.states(batch, split)
            with gated.session([offsets.heads(own_B)], scope="answer", needs=()):
                after_BA = answered(batch, split, states).log_probs_BA
            with gated.session([], base_only=True, needs=()):
                before_BA = answered(batch, split, states).log_probs_BA
    found = {"question": batch.question_B, "gold": batch.gold_B, "before": before_BA, "after": after_BA}
    return {name: value.cpu() for name, value in found.items()}


class _Right:
    """Keeps who is answered correctly."""

    needs = frozenset[str]()
    reads_mass = False

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        self.parts.append((batch.question_B.cpu(), (judged.log_probs_BA.argmax(-1) == batch.gold_B).cpu()))

    def by_question(self) -> Tensor:
        """Return it in the order of the questions."""
        question_Q, right_Q = (joined_over_ranks(torch.cat(one)) for one in zip(*self.parts, strict=True))
        return right_Q[question_Q.argsort()]
