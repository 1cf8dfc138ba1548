"""Greedy answers: those of transformers where nothing is changed, whatever the batch; heads act where they may."""

import math

import pytest
import torch

from moe_tune.data.short_batching import EncodedShort, ShortDataset, ShortQuestion
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.guard import Guard
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.routing import RoutingTrace
from moe_tune.tuner.greedy_answers import greedy_answers

LENGTHS, NEW = (12, 2, 7, 3, 9), 6
LINE_END = 63


class Words:
    """A tokenizer of one word a token, but for one that ends a line."""

    pad_token_id, eos_token_id = 0, None

    def decode(self, ids):
        return " ".join("\n" if one == LINE_END else f"w{one}" for one in ids)

    def batch_decode(self, ids_BS):
        return [self.decode(ids) for ids in ids_BS.tolist()]


@pytest.fixture
def tiny_model(family, build_model):
    model = build_model(family)
    with torch.no_grad():  # else the experts of a fresh model hardly change what is said
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.down_proj", "lm_head.weight")):
                parameter.mul_(20)
        model.lm_head.weight[LINE_END] = 0
    return model


@pytest.fixture
def prompts():
    draw = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, LINE_END, (length,), generator=draw).int() for length in LENGTHS]
    return [EncodedShort(ShortQuestion("", ("x",), str(place), "", ""), one) for place, one in enumerate(ids)]


def batches(prompts, size, pad_id=0, order=None):
    order = list(range(len(prompts))) if order is None else order
    dataset = ShortDataset(prompts, pad_id)
    return [dataset[order[start : start + size]] for start in range(0, len(order), size)]


def said(gated, prompts, size=5, new=NEW, **changes):
    return greedy_answers(gated, batches(prompts, size, **changes), Words(), new).texts


def tuned(model, family, scope="answer", head=None):
    gated = GatedModel(model, family, head or RetunedHead(), "last-2", scope)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in sorted(gated.trainable().items()):
            parameter.add_(3 * torch.randn(parameter.shape, generator=draw))
    return gated


def of_transformers(model, prompts):
    """Return what a model says by itself, each prompt alone and without padding."""
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ids = [one.ids_S[None].long() for one in prompts]
    told = [model.generate(one, attention_mask=torch.ones_like(one), **options)[0, one.shape[1] :] for one in ids]
    return [Words().decode(one.tolist()) for one in told]


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_without_a_change_it_is_generate_of_the_untouched_model(family, tiny_model, prompts, scope):
    wanted = of_transformers(tiny_model, prompts)
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", scope, "native")
    assert said(gated, prompts) == wanted
    gated.detach()
    gated = tuned(tiny_model, family, scope)
    assert said(gated, prompts) != wanted
    with gated.session(base_only=True):
        assert said(gated, prompts) == wanted


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_batches_padding_and_order_say_nothing(family, tiny_model, prompts, scope):
    gated = tuned(tiny_model, family, scope)
    wanted = said(gated, prompts, 1)
    assert len(set(wanted)) > 1
    for size, pad_id, order in ((5, 0, None), (2, 9, [4, 2, 0, 1, 3]), (5, 31, [3, 1, 0, 4, 2])):
        assert said(gated, prompts, size, pad_id=pad_id, order=order) == wanted


def test_at_scope_answer_a_head_acts_from_the_last_prompt_token_on(family, tiny_model, prompts):
    gated = tuned(tiny_model, family)
    for one, text in zip(prompts, said(gated, prompts), strict=True):
        ids, start = one.ids_S.tolist(), one.length - 1
        for _ in range(NEW):  # the whole of it anew each time, without a cache
            row_1S = torch.tensor([ids])
            real_1S = torch.ones_like(row_1S, dtype=torch.bool)
            causal = torch.full((len(ids), len(ids)), torch.finfo(torch.float32).min).triu(1)[None, None]
            with torch.no_grad(), gated.session() as session:
                session.trace = RoutingTrace.of_tokens(real_1S, real_1S & (torch.arange(len(ids)) >= start))
                ids.append(int(gated.model(input_ids=row_1S, attention_mask=causal).logits[0, -1].argmax()))
        assert text == Words().decode(ids[one.length :])


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_what_a_guard_decides_at_the_prompt_stands_for_all_that_is_said(
    family, tiny_model, prompts, scope, monkeypatch
):
    gated, asked, ask = tuned(tiny_model, family, scope, Guard(RetunedHead())), [], Guard.recognises

    def watched(guard, hidden_QD):
        asked.append((guard.distance(hidden_QD), ask(guard, hidden_QD)))
        return asked[-1][1]

    monkeypatch.setattr(Guard, "recognises", watched)
    first = gated.heads[min(gated.heads)]
    first.guard_rest.fill_(1.0)
    told = {}
    for acts, threshold in ((True, math.inf), (False, 0.0)):
        first.guard_threshold.fill_(threshold)
        told[acts] = said(gated, prompts)
    with gated.session(base_only=True):
        assert said(gated, prompts) == told[False]
    (away_Q, _), _ = asked
    asked.clear()
    first.guard_threshold.fill_(float(away_Q.sort().values[2:4].mean()))
    mixed = said(gated, prompts)
    ((_, acts_Q),) = asked
    assert acts_Q.sum() == 3
    assert mixed == [told[acts][place] for place, acts in enumerate(acts_Q.tolist())]
    assert mixed not in told.values()
    assert said(gated, prompts, 1) == mixed


def test_a_models_own_settings_say_nothing_but_its_ends(family, tiny_model, prompts):
    gated = tuned(tiny_model, family)
    gated.train(True)
    plain, before = said(gated, prompts), torch.get_rng_state()
    settings = tiny_model.generation_config
    for name, value in {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "max_length": 3}.items():
        setattr(settings, name, value)
    assert said(gated, prompts) == plain
    assert torch.get_rng_state().equal(before)
    assert tiny_model.generation_config is settings
    assert gated.training
    words = plain[0].split()
    end = next(one for one in words if words.index(one))
    settings.eos_token_id = [int(end[1:]), 62]
    assert said(gated, prompts)[0].split() == words[: words.index(end)]


def test_an_answer_ends_with_its_line_and_at_the_most_tokens(family, tiny_model, prompts):
    gated = tuned(tiny_model, family)
    whole = [one.split() for one in said(gated, prompts)]
    assert [one.split() for one in said(gated, prompts, new=2)] == [one[:2] for one in whole]
    end = next(one for one in whole[0] if whole[0].index(one))

    class Lines(Words):
        def decode(self, ids):
            return super().decode(ids).replace(end, "\n")

    (first, *_) = greedy_answers(gated, batches(prompts, 5), Lines(), NEW).texts
    assert first.split() == whole[0][: whole[0].index(end)]
