"""Who decides on which tokens: every token once, whatever acts."""

import pytest
import torch

from moe_tune.gates.session import Session
from moe_tune.heads.identity import IdentityHead
from moe_tune.routing import RoutingTrace

PROMPTS = RoutingTrace.of_batch(torch.tensor([[1, 1, 0], [1, 1, 1]]))
HEAD, OTHER = IdentityHead(), IdentityHead()


def who(session, trace, own=HEAD):
    """Return who decides on each token; a token with no one or several fails."""
    tokens = torch.arange(len(trace.real_T))
    found = {}
    for head, rows in session.acting(3, own, trace):
        for token in tokens[rows].tolist():
            assert token not in found
            found[token] = head
    assert sorted(found) == tokens.tolist()
    return [found[token] for token in tokens.tolist()]


@pytest.mark.parametrize(
    ("scope", "acts"), [("answer", (0, 1, 0, 0, 0, 1)), ("all", (1, 1, 0, 1, 1, 1))], ids=["answer", "all"]
)
def test_a_head_acts_within_its_scope_and_the_pretrained_router_elsewhere(scope, acts):
    session = Session(scope, "float32", frozenset())
    assert who(session, PROMPTS) == [HEAD if one else None for one in acts]
    assert who(session, PROMPTS, own=None) == [None] * 6
    session.bypassed = True
    assert who(session, PROMPTS) == [None] * 6


def test_a_panel_takes_answer_tokens_in_turn():
    session = Session("answer", "float32", frozenset())
    answers = RoutingTrace.of_answers(2, 3, torch.device("cpu"))
    assert who(session, RoutingTrace.of_answers(2, 1, torch.device("cpu"))) == [HEAD] * 2
    session.panel = [{3: HEAD}, {}, {3: OTHER}]
    assert who(session, answers) == [HEAD, None, OTHER] * 2
    session.bypassed = True
    assert who(session, answers) == [None] * 6


def test_tokens_that_all_count_are_not_copied():
    trace = RoutingTrace.of_batch(torch.ones(2, 3))
    assert Session("all", "float32", frozenset()).acting(3, HEAD, trace) == [(HEAD, slice(None))]
