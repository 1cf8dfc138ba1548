"""Neighbours are the nearest correct questions, never a question itself or its copies; embeddings stand alone."""

import pytest
import torch

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.refusals import Refusals
from moe_tune.tuner.evaluate import quiz
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.neighbours import EmbeddedQuestions, neighbour_routes

COPIES_Q = torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 7, 8])


def embedded(questions=10, width=4):
    drawn_QD = torch.randn(questions, width, generator=torch.Generator().manual_seed(4))
    points_QD = torch.nn.functional.normalize(drawn_QD, dim=-1)
    return EmbeddedQuestions(points_QD, [str(one) for one in COPIES_Q.tolist()], torch.zeros(width))


def test_they_are_the_nearest_of_those_allowed():
    points, allowed_Q = embedded(), torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 1]).bool()
    near_QN, weight_QN = points.nearest(allowed_Q)
    distance_QQ = torch.cdist(points.embedding_QD, points.embedding_QD)
    thirds, rows = [], []
    for question in range(10):
        others = [one for one in range(10) if allowed_Q[one] and COPIES_Q[one] != COPIES_Q[question]]
        rows.append(sorted(others, key=lambda one: float(distance_QQ[question, one]))[:3])
        thirds.append(distance_QQ[question, rows[-1][-1]])
    assert near_QN.tolist() == rows
    scale = torch.stack(thirds).median()
    wanted_QN = torch.stack([(-distance_QQ[one, rows[one]].square() / (2 * scale**2)).exp() for one in range(10)])
    torch.testing.assert_close(weight_QN, wanted_QN / wanted_QN.sum(1, keepdim=True), atol=1e-4, rtol=1e-4)


def test_with_fewer_than_three_what_is_missing_weighs_nothing():
    allowed_Q = torch.zeros(10, dtype=torch.bool)
    near_QN, weight_QN = embedded().nearest(allowed_Q)
    assert near_QN.shape == weight_QN.shape == (10, 0)
    allowed_Q[[0, 3]] = True  # copies of one another
    near_QN, weight_QN = embedded().nearest(allowed_Q)
    assert weight_QN[0].tolist() == weight_QN[3].tolist() == [0, 0]
    torch.testing.assert_close(weight_QN[[1, 2, 4]].sum(1), torch.ones(3))


def test_those_of_other_questions_are_found_at_the_same_scale():
    points, allowed_Q = embedded(), torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 1]).bool()
    of_all = points.nearest(allowed_Q)
    few = EmbeddedQuestions(points.embedding_QD[[4, 0]], [points.hashes[4], points.hashes[0]], points.centre_D)
    for came, wanted in zip(points.nearest(allowed_Q, few), of_all, strict=True):
        torch.testing.assert_close(came, wanted[[4, 0]])


def examiner(head=None, size=16):
    base = BaseModel("nano", experts_implementation="eager")
    model, family = base.load()
    gated = GatedModel(model, family, head or RetunedHead(), "last-2")
    questions = quiz(NanoQuiz(24, 24), base, protocol="nano_quiz", eval_batch_size=size)
    way = AnswerPath(use="never")
    return Examiner(
        Answering(Circumstances(gated, questions, Reach.of(gated.layers, "answer", False, {}, Refusals()), way))
    )


def test_embeddings_are_of_the_pretrained_model_and_do_not_depend_on_the_batch():
    one, other = examiner(), examiner(size=5)
    with torch.no_grad():
        for value in other.gated.state().values():
            value.add_(torch.randn(value.shape))
    points = [EmbeddedQuestions.of_training(asked) for asked in (one, other)]
    torch.testing.assert_close(points[0].embedding_QD, points[1].embedding_QD, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points[0].embedding_QD.norm(dim=1), torch.ones(24))
    assert len(set(points[0].hashes)) == 24
    ids_S = one.quiz.encoded("train").prompts[3].ids_S[None].long()
    means = []
    with torch.no_grad(), one.gated.session(base_only=True):
        for prompt in one.quiz.encoded("train").prompts:
            means.append(one.gated.model.base_model(input_ids=prompt.ids_S[None].long()).last_hidden_state[0].mean(0))
    away_D = means[3] - torch.stack(means).mean(0)
    assert len(ids_S[0]) > 1
    torch.testing.assert_close(points[0].embedding_QD[3], away_D / away_D.norm(), atol=1e-4, rtol=1e-4)


def test_the_routing_of_neighbours_is_that_of_the_heads_as_they_are_now():
    asked = examiner()
    points = EmbeddedQuestions.of_training(asked)
    before = neighbour_routes(asked, points, asked.gated.layers)
    assert sorted(before.probs_RE) == [2, 3]
    with torch.no_grad():
        for value in asked.gated.state().values():
            value.add_(torch.randn(value.shape))
    after = neighbour_routes(asked, points, asked.gated.layers)
    assert not torch.equal(before.probs_RE[2], after.probs_RE[2])
    batch = before.of(torch.tensor([5, 2]))
    assert torch.equal(batch.probs_QNE(3)[1], before.probs_RE[3][before.neighbour_QN[2]])
    assert batch.weight_QN.sum(1).tolist() == pytest.approx([1, 1])
