"""What route regret and committees are made of agrees with the answers and the masses that are counted elsewhere."""

import numpy as np
import pandas as pd
import pytest
import torch

from moe_tune.analysis.answer_weights import AnswerWeights, committee_frame
from moe_tune.analysis.findings import COMMITTEES, REGRET
from moe_tune.analysis.measured_regret import measure_regret, why_no_regret
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.top_p import TopPHead
from moe_tune.losses.base import RouteSampling
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.evaluate import evaluate, quiz
from moe_tune.tuner.offsets import examiner_of, on_answer_path
from moe_tune.tuner.route_sampling import answered_routes, own_route

BASE = BaseModel("nano", experts_implementation="eager")
QUIZ = quiz(NanoQuiz(24, 24), BASE, protocol="nano_quiz")


def gated_model(head=None, layers="last-2", scope="answer"):
    model, family = BASE.load()
    gated = GatedModel(model, family, head or IdentityHead(), layers, scope)
    torch.manual_seed(0)
    for value in gated.trainable().values():
        torch.nn.init.normal_(value, std=0.3)
    gated.train(False)
    return gated


@pytest.mark.parametrize("head", [None, RetunedHead()])
def test_the_own_route_answers_as_the_whole_model_does(head):
    gated = gated_model(head)
    there = on_answer_path(examiner_of(gated, QUIZ, None), "validation", [3, *gated.heads])
    batch = next(iter(QUIZ.val_dataloader()))
    there.prepare(["validation"])
    with torch.no_grad():
        probs_BE, own_BA = own_route(there, batch, "validation", 3, gated.heads)
        _, log_probs_BNA = answered_routes(there, batch, "validation", 3, RouteSampling(4, 0), gated.heads)
    results = evaluate(gated, QUIZ, "validation")
    order_Q = torch.cat(results.question_Q).argsort()
    torch.testing.assert_close(own_BA, results.log_probs_QA[order_Q][batch.question_B], atol=1e-5, rtol=0)
    torch.testing.assert_close(probs_BE.sum(-1), torch.ones(len(batch.question_B)))
    assert not torch.equal(log_probs_BNA[:, 0], own_BA)
    torch.testing.assert_close(log_probs_BNA.exp().sum(-1), torch.ones(log_probs_BNA.shape[:2]))


def test_regret_is_the_same_again_and_leaves_the_model_as_it_was():
    gated = gated_model(RetunedHead())
    before = evaluate(gated, QUIZ, "validation").log_probs_QA
    examiner = examiner_of(gated, QUIZ, None)
    first, second = (measure_regret(examiner, "validation", gated.heads, 24, 20, 1) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert [*first.columns] == [*REGRET[2:]]
    assert (first["verdict"] == "not tested").tolist() == [False, *[True] * 5]
    assert first["questions"].tolist() == [24, 5, 5, 5, 5, 4]
    assert torch.equal(evaluate(gated, QUIZ, "validation").log_probs_QA, before)


@pytest.mark.parametrize(
    ("head", "scope", "why"),
    [
        (RetunedHead(), "all", "every token"),
        (TopPHead(), "answer", "how many experts"),
        (RetunedHead(), "answer", None),
    ],
)
def test_what_cannot_be_sampled_says_why(head, scope, why):
    gated = gated_model(head, scope=scope)
    found = why_no_regret(examiner_of(gated, QUIZ, None), "validation", gated.heads)
    assert found is None if why is None else why in found


def test_the_weights_of_answers_are_those_that_the_metrics_count():
    gated = gated_model()
    examiner = examiner_of(gated, QUIZ, None)
    shape = examiner.metric_shape("validation")
    weights = examiner.evaluate("validation", AnswerWeights(shape))
    mass_LE = examiner.evaluate("validation", examiner.results("validation")).evidence.tables("answer")["weight_mass"]
    np.testing.assert_allclose(weights.weights_QLE.sum(0), mass_LE.numpy(), atol=1e-5)
    questions = pd.DataFrame(
        [(one.subject, one.content_hash) for one in QUIZ.questions("validation")], columns=["subject", "content_hash"]
    )
    frame = committee_frame(weights, questions, 20, 0)
    assert [*frame.columns] == [*COMMITTEES[2:]]
    assert (frame["p_holm"] >= frame["p"]).all()
    assert committee_frame(weights, questions.assign(subject="one"), 20, 0).empty
