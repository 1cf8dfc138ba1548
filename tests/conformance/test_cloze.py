"""A cloze question in one row is what a row per choice would be: heads act on it alike, and every token counts once."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional

from moe_tune.answer_path.forward import choice_logits
from moe_tune.answer_path.packed_prompts import packed_logits
from moe_tune.answer_path.prefixes import shared_prefixes
from moe_tune.answer_path.prompt_pass import PromptPass, StreamedStates
from moe_tune.data.batching import PromptDataset
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.question import Question
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.routing import RoutingTrace

TEXTS = ("a", "bb", "ccc ccc", "dd")
LENGTHS = ((2, 2), (1, 3, 5, 2), (4, 1, 1))
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


def kept(gated, family, prompts, batch, shortest=64):
    """Return the logits of a batch from kept states."""
    first = min(gated.layers)
    shape = family.state_shape(gated.model.config, first, tuple(range(first)), torch.float32)
    states = StreamedStates(PromptPass(gated, shape, prompts, shared_prefixes(prompts, shortest), pad_id=0))
    return choice_logits(gated, shape, states.batch(batch.question_B), batch, batch.choices)


@pytest.mark.parametrize("shared", [False, True], ids=["each prompt alone", "a shared prefix"])
def test_kept_prompts_give_what_full_ones_give(family, build_model, asked, shared):
    prompts = asked.prompts
    if shared:  # two of the three begin alike, and so do not the rows of their choices
        opening = prompts[0].ids_S
        prompts = [replace(one, ids_S=torch.cat([opening, one.ids_S])) for one in prompts]
    batch, found = Asked(prompts).batch, []
    for way in ("kept", "full"):
        gated = tuned(build_model(family), family, "answer")
        if way == "kept":
            logits_MV = kept(gated, family, prompts, batch, shortest=2)
        else:
            logits_MV = packed_logits(gated, batch, batch.choices)
        batch.choices.log_likelihoods(logits_MV).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in gated.trainable().values()])
        found.append((logits_MV.detach(), gradient, list(gated.trace.at("answer"))))
        assert not gated.trace.is_open
    (logits, gradient, outputs), (wanted, other, full) = found
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)
    for came, usual in zip(outputs, full, strict=True):
        assert came.layer == usual.layer
        assert torch.equal(came.experts_TK, usual.experts_TK)
        torch.testing.assert_close(came.logits_TE, usual.logits_TE, rtol=1e-4, atol=1e-5)


def test_heads_side_by_side_give_what_each_gives_alone(family, build_model, asked):
    gated = tuned(build_model(family), family, "answer")
    batch = asked.batch
    with torch.no_grad():
        alone = kept(gated, family, asked.prompts, batch)
        with gated.session([{}]):
            base = kept(gated, family, asked.prompts, batch)
        with gated.session([{}, gated.heads]):
            both = kept(gated, family, asked.prompts, batch)
            trace = gated.trace
    torch.testing.assert_close(both[0::2], base, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[1::2], alone, rtol=1e-4, atol=1e-5)
    sums = batch.choices.log_likelihoods(both)
    torch.testing.assert_close(sums[1::2], batch.choices.log_likelihoods(alone), rtol=1e-4, atol=1e-5)
    counts = torch.bincount(trace.of_head(0, 2).question_T[trace.of_head(0, 2).answer_T]).tolist()
    assert counts == [1 + sum(count - 1 for count in lengths) for lengths in LENGTHS]


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
