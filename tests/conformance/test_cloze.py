"""A cloze question in one row is what a row per choice would be: heads act on it alike, and every token counts once."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from moe_tune.answer_path.packed_prompts import packed_logits
from moe_tune.data.batching import PromptDataset
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.question import Question
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.routing import RoutingTrace

TEXTS = ("a", "bb", "ccc ccc", "dd")
LENGTHS = ((1, 3, 5, 2), (2, 2), (4, 1, 1))
"""Tokens of the choices of each question."""


@dataclass
class Asked:
    """Made-up cloze questions, as a batch and one by one."""

    prompts: list[PromptedQuestion]

    @property
    def batch(self):
        return PromptDataset(self.prompts, ["made up"], 0)[list(range(len(self.prompts)))]


@pytest.fixture
def asked():
    draw = torch.Generator().manual_seed(5)

    def ids(count):
        return torch.randint(1, 64, (count,), generator=draw).int()

    made = []
    for index, lengths in enumerate(LENGTHS):
        question = Question("made up", "?", TEXTS[: len(lengths)], index % 2, str(index), str(index))
        made.append(PromptedQuestion(question, ids(4 + 3 * index), 0, tuple(ids(count) for count in lengths)))
    return Asked(made)


def tuned(model, family, scope):
    gated = GatedModel(model, family, RetunedHead(), "last-2", scope)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in gated.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return gated


def one_by_one(gated, prompts):
    """Return the log-likelihood of each choice from a row of its own; the head acts from the last prompt token on."""
    found = []
    for one in prompts:
        for ids in one.choices:
            row_1S = torch.cat([one.ids_S, ids[:-1]])[None].long()
            length, start = row_1S.shape[1], len(one.ids_S) - 1
            real_1S = torch.ones(1, length, dtype=torch.bool)
            causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
            with gated.session() as session:
                session.trace = RoutingTrace.of_tokens(real_1S, real_1S & (torch.arange(length) >= start))
                logits_SV = gated.model(input_ids=row_1S, attention_mask=causal).logits[0, start:]
            found.append(-functional.cross_entropy(logits_SV, ids.long(), reduction="sum"))
    return torch.stack(found)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_row_of_all_choices_is_a_row_per_choice(family, build_model, asked, scope):
    gated = tuned(build_model(family), family, scope)
    batch = asked.batch
    together_BA = batch.choices.log_likelihoods(packed_logits(gated, batch, batch.choices))
    there_BA = torch.arange(4)[None] < batch.choice_count_B[:, None]
    wanted = one_by_one(gated, asked.prompts)
    torch.testing.assert_close(together_BA[there_BA], wanted, rtol=1e-5, atol=1e-5)
    assert (together_BA[~there_BA] == 0).all()
    wanted.sum().backward()
    gradients = [parameter.grad.clone() for parameter in gated.trainable().values()]
    for parameter in gated.trainable().values():
        parameter.grad = None
    together_BA.sum().backward()
    for parameter, gradient in zip(gated.trainable().values(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_the_head_acts_at_the_last_prompt_token_and_every_choice_token_but_the_last(family, build_model, asked):
    gated, batch = tuned(build_model(family), family, "answer"), asked.batch
    packed_logits(gated, batch, batch.choices)
    trace = gated.trace
    counts = torch.bincount(trace.question_T[trace.answer_T]).tolist()
    assert counts == [1 + sum(count - 1 for count in lengths) for lengths in LENGTHS]
    assert int(trace.real_T.sum()) == sum(one.length for one in asked.prompts), "no token counts twice"
    first = trace.answer_T.nonzero().squeeze(-1)[trace.first_answers()] % batch.input_ids_BS.shape[1]
    assert first.tolist() == batch.answer_position_B.tolist()
    assert not trace.is_open
