"""The descent on neighbours' answers: what moves is theirs alone, and each question goes its own way."""

import torch

from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.losses.base import OracleSearch
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner import neighbour_descent as under_test
from moe_tune.tuner.evaluate import evaluate, quiz
from moe_tune.tuner.neighbour_descent import neighbour_descent
from moe_tune.tuner.neighbours import EmbeddedQuestions
from moe_tune.tuner.oracle import routing_oracle

BASE = BaseModel("nano", experts_implementation="eager")
FAR = OracleSearch(6, 0.1)


def gated_model():
    return GatedModel(*BASE.load(), IdentityHead(), "last-2")


def asked(**options):
    return quiz(NanoQuiz(48, 24), BASE, protocol="nano_quiz", **options)


def test_it_starts_at_the_pretrained_router_and_does_not_depend_on_the_batch():
    gated, questions = gated_model(), asked()
    found = neighbour_descent(gated, questions, search=FAR)
    pretrained = evaluate(gated, questions)
    order_Q = torch.cat(pretrained.question_Q).argsort()
    torch.testing.assert_close(found.before_QA, pretrained.log_probs_QA[order_Q], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.log_probs_QA, found.before_QA, atol=1e-3)
    assert found.summary()["pretrained_accuracy"] == pretrained.summary()["accuracy"]
    few = neighbour_descent(gated_model(), asked(eval_batch_size=5), search=FAR)
    torch.testing.assert_close(few.log_probs_QA, found.log_probs_QA, atol=1e-3, rtol=1e-3)


def test_of_a_question_that_is_its_own_neighbour_it_is_the_oracle(monkeypatch):
    """The same search, when the one training question that counts is the question itself."""

    def itself(self, allowed_Q, to=None, count=3):
        own_Q1 = torch.arange(len(self.hashes))[:, None]
        return own_Q1, torch.ones(len(own_Q1), 1)

    monkeypatch.setattr(EmbeddedQuestions, "nearest", itself)
    found = neighbour_descent(gated_model(), asked(), "train", FAR)
    wanted = routing_oracle(gated_model(), asked(), "train", FAR)
    torch.testing.assert_close(found.log_probs_QA, wanted.log_probs_QA, atol=1e-3, rtol=1e-3)


def test_without_a_correctly_answered_training_question_nothing_moves(monkeypatch):
    monkeypatch.setattr(under_test._Right, "by_question", lambda self: torch.zeros(48, dtype=torch.bool))
    found = neighbour_descent(gated_model(), asked(), search=FAR)
    torch.testing.assert_close(found.log_probs_QA, found.before_QA, atol=1e-4, rtol=1e-4)
