"""The records by question: against a loop, in the places of the split, and adding up to the other tables."""

import numpy as np
import pytest
import torch
from naive_choices import LENGTHS, table

from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.question_routing import QuestionRouting
from moe_tune.routing import PARTS


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_hits_add_up_to_the_questions_of_each_expert(scope, random_trace):
    trace = random_trace(LENGTHS, 5)
    records, sums = table(QuestionRouting, scope, trace), table(ExpertAccuracy, scope, trace)
    np.testing.assert_array_equal(records["hit_QLE"].sum(0), sums["questions"])
    right = records["correct_Q"].astype(bool)
    np.testing.assert_array_equal(records["hit_QLE"][right].sum(0), sums["correct"])
    for subject in range(3):
        of_subject = (records["subject_Q"] == subject) & (records["seen_Q"] == 1)
        np.testing.assert_array_equal(records["hit_QLE"][of_subject].sum(0), sums["questions_by_subject"][..., subject])


def test_a_question_without_a_token_of_the_part_is_not_seen(random_trace):
    trace = random_trace(LENGTHS, 5)
    trace.part_T = torch.where(trace.real_T, PARTS.index("stem"), -1)
    trace.part_T[trace.question_T == 3] = PARTS.index("choices")
    assert table(QuestionRouting, "stem", trace)["seen_Q"].tolist() == [1, 0, 0, 1, 0, 1, 1]
    choices = table(QuestionRouting, "choices", trace)
    assert choices["seen_Q"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert choices["hit_QLE"].sum((1, 2)).astype(bool).tolist() == choices["seen_Q"].astype(bool).tolist()
    assert not table(QuestionRouting, "examples", trace)["seen_Q"].any()
