"""The records by question: against a loop, in the places of the split, and adding up to the other tables."""

import torch
from naive_choices import LENGTHS, table

from moe_tune.metrics.question_routing import QuestionRouting
from moe_tune.routing import PARTS


def test_a_question_without_a_token_of_the_part_is_not_seen(random_trace):
    trace = random_trace(LENGTHS, 5)
    trace.part_T = torch.where(trace.real_T, PARTS.index("stem"), -1)
    trace.part_T[trace.question_T == 3] = PARTS.index("choices")
    assert table(QuestionRouting, "stem", trace)["seen_Q"].tolist() == [1, 0, 0, 1, 0, 1, 1]
    choices = table(QuestionRouting, "choices", trace)
    assert choices["seen_Q"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert choices["hit_QLE"].sum((1, 2)).astype(bool).tolist() == choices["seen_Q"].astype(bool).tolist()
    assert not table(QuestionRouting, "examples", trace)["seen_Q"].any()
