"""Losses on documents: those of the plain model without heads, whatever the batches; heads act where they may."""

import pytest
import torch
from torch.nn import functional

from moe_tune.base.errors import NumericsError
from moe_tune.data.text_batching import Document, EncodedDocument, TextDataset, second_half
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.routing import RoutingTrace
from moe_tune.tuner.text_losses import document_losses

LENGTHS = (12, 2, 7, 3, 9)


def louder(model):
    """Return a model whose experts have a say: those of a fresh one hardly move its losses."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.down_proj", "lm_head.weight")):
                parameter.mul_(20)
    return model


@pytest.fixture
def tiny_model(family, build_model):
    return louder(build_model(family))


@pytest.fixture
def documents():
    draw = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, 64, (length,), generator=draw).int() for length in LENGTHS]
    return [
        EncodedDocument(Document("", str(index), "", ""), one, second_half(len(one))) for index, one in enumerate(ids)
    ]


def batches(documents, size, pad_id=0, order=None):
    order = list(range(len(documents))) if order is None else order
    dataset = TextDataset(documents, pad_id)
    return [dataset[order[start : start + size]] for start in range(0, len(order), size)]


def tuned(model, family, scope, head=None):
    gated = GatedModel(model, family, head or RetunedHead(), "last-2", scope)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in gated.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return gated


@pytest.mark.parametrize("dtype", ["float32", "native"])
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_without_a_change_the_losses_are_the_pretrained_routers_to_the_bit(family, tiny_model, documents, scope, dtype):
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", scope, dtype)
    came = document_losses(gated, batches(documents, 3))
    with gated.session(base_only=True):
        base = document_losses(gated, batches(documents, 3))
    assert came.loss_D.equal(base.loss_D)
    assert came.tokens_D.tolist() == [one.scored for one in documents] == [6, 1, 4, 2, 5]


def test_the_pretrained_routers_losses_are_those_of_the_plain_model(family, build_model, documents):
    stock = louder(build_model(family))
    wanted = []
    with torch.no_grad():
        for one in documents:
            ids_1S = one.ids_S[None].long()
            logits_SV = stock(ids_1S).logits[0]
            start = len(one.ids_S) // 2
            lost = functional.cross_entropy(logits_SV[start - 1 : -1].float(), ids_1S[0, start:], reduction="sum")
            wanted.append(float(lost))
    gated = tuned(louder(build_model(family)), family, "all")
    with gated.session(base_only=True):
        came = document_losses(gated, batches(documents, 2))
    assert came.loss_D.tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_batches_padding_and_order_say_nothing(family, tiny_model, documents, scope):
    gated = tuned(tiny_model, family, scope)
    wanted = document_losses(gated, batches(documents, 1))
    for size, pad_id, order in ((5, 0, None), (2, 9, [4, 2, 0, 1, 3]), (5, 31, [3, 1, 0, 4, 2])):
        came = document_losses(gated, batches(documents, size, pad_id, order))
        assert came.document_D.tolist() == list(range(5))
        torch.testing.assert_close(came.loss_D, wanted.loss_D, rtol=1e-5, atol=0)
    with gated.session(base_only=True):
        base = document_losses(gated, batches(documents, 5))
    assert (base.loss_D - wanted.loss_D).abs().min() > 0.01, "the heads change every document"


def test_at_scope_answer_a_head_acts_from_the_last_prompt_token_on(family, tiny_model, documents):
    gated = tuned(tiny_model, family, "answer")
    came = document_losses(gated, batches(documents, 5))
    for index, one in enumerate(documents):  # said token by token, as a cloze question's choice is
        row_1S, start = one.ids_S[None, :-1].long(), len(one.ids_S) // 2 - 1
        length = row_1S.shape[1]
        real_1S = torch.ones(1, length, dtype=torch.bool)
        causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        with torch.no_grad(), gated.session() as session:
            session.trace = RoutingTrace.of_tokens(real_1S, real_1S & (torch.arange(length) >= start))
            logits_SV = gated.model(input_ids=row_1S, attention_mask=causal).logits[0, start:]
        wanted = functional.cross_entropy(logits_SV, one.ids_S[start + 1 :].long(), reduction="sum")
        assert float(came.loss_D[index]) == pytest.approx(float(wanted), rel=1e-5)


def test_at_scope_answer_the_prompts_hidden_states_are_untouched(family, tiny_model, documents):
    (batch,) = batches(documents, 5)
    seen = {}

    def hidden(name, scope, base_only=False):
        hook = tiny_model.base_model.register_forward_hook(
            lambda module, args, output: seen.__setitem__(name, output.last_hidden_state)
        )
        with gated.session(scope=scope, base_only=base_only):
            document_losses(gated, [batch])
        hook.remove()

    gated = tuned(tiny_model, family, "answer")
    hidden("base", "answer", base_only=True)
    hidden("answer", "answer")
    hidden("all", "all")
    before_BS = ~batch.answer_BS & batch.attention_mask_BS.bool()
    assert before_BS.any()
    # An expert that gets another number of tokens rounds otherwise, and so to the bit they need not be equal.
    torch.testing.assert_close(seen["answer"][before_BS], seen["base"][before_BS], rtol=0, atol=1e-5)
    assert (seen["all"][before_BS] - seen["base"][before_BS]).abs().max() > 0.01
    assert (seen["answer"][batch.answer_BS] - seen["base"][batch.answer_BS]).abs().max() > 0.01


def test_the_session_and_the_mode_are_what_they_were_and_no_number_is_drawn(family, tiny_model, documents):
    gated = tuned(tiny_model, family, "answer")
    gated.train(True)
    before = torch.get_rng_state()
    document_losses(gated, batches(documents, 5))
    assert gated.training
    assert torch.get_rng_state().equal(before)
    ids_BS = torch.randint(1, 64, (2, 4))
    gated(ids_BS)
    assert gated.trace.answer_T.nonzero().flatten().tolist() == [3, 7], "the last token again"


def test_losses_that_are_not_finite_are_refused(family, tiny_model, documents):
    gated = tuned(tiny_model, family, "answer")
    with torch.no_grad():
        tiny_model.lm_head.weight[0] = float("nan")
    with pytest.raises(NumericsError, match=r"finite losses of documents.*test_page"):
        document_losses(gated, batches(documents, 5), "test_page")
