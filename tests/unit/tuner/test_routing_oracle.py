"""The oracle seeks for each question by itself, from the pretrained routers, and leaves everything as it was."""

import pytest
import torch
from torch.nn import functional

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.losses.base import OracleSearch
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.evaluate import evaluate, quiz
from moe_tune.tuner.oracle import routing_oracle

BASE = BaseModel("nano", experts_implementation="eager")
STREAMED = AnswerPath(limit_gb=0, above_limit="stream")


def asked(**options):
    return quiz(NanoQuiz(24, 24), BASE, **{"protocol": "nano_quiz", **options})


def gated_model(head=None, layers="last-2", scope="answer"):
    model, family = BASE.load()
    return GatedModel(model, family, head or IdentityHead(), layers, scope)


class _Moved(RouterHead):
    """Adds fixed offsets, one row per token it acts on."""

    traits = HeadTraits()

    def __init__(self, offset_TE):
        super().__init__()
        self.offset_TE = offset_TE

    def score(self, hidden_TD, logits_TE):
        return logits_TE + self.offset_TE


def test_it_begins_at_the_pretrained_router_and_does_better():
    gated, questions = gated_model(RetunedHead()), asked()
    before = {name: value.clone() for name, value in gated.state().items()}
    hashes = gated.frozen_hashes()
    sought = routing_oracle(gated, questions, "validation", OracleSearch(20, 0.05))
    with gated.session(base_only=True):
        pretrained = evaluate(gated, questions)
    order_Q = torch.cat(pretrained.question_Q).argsort()
    torch.testing.assert_close(sought.before_QA, pretrained.log_probs_QA[order_Q], atol=1e-5, rtol=1e-5)
    numbers = sought.summary()
    assert numbers["over_optimistic_loss"] < numbers["pretrained_loss"]
    assert numbers["over_optimistic_accuracy"] >= numbers["pretrained_accuracy"] == pretrained.summary()["accuracy"]
    assert torch.equal(sought.routes.right_Q, sought.log_probs_QA.argmax(-1) == sought.gold_Q)
    assert gated.frozen_hashes() == hashes
    assert all(torch.equal(value, before[name]) for name, value in gated.state().items())


def test_a_question_does_not_depend_on_those_beside_it_or_on_the_heads():
    search = OracleSearch(5, 0.05)
    found = [
        routing_oracle(gated_model(head, scope=scope), asked(eval_batch_size=size), "train", search, way)
        for head, scope, size, way in (
            (None, "answer", 24, None),
            (None, "answer", 5, None),
            (RetunedHead(), "all", 24, None),
            (None, "answer", 24, AnswerPath(use="never")),
        )
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.log_probs_QA, found[0].log_probs_QA, atol=1e-4, rtol=1e-4)
        for layer, probs_QE in found[0].routes.probs_QE.items():
            torch.testing.assert_close(other.routes.probs_QE[layer], probs_QE, atol=1e-4, rtol=1e-4)


def test_it_is_gradient_descent_on_the_offsets_of_the_full_prompt():
    """Against Adam written out, through the whole model on a whole prompt."""
    rate, questions = 0.05, asked()
    sought = routing_oracle(gated_model(), questions, "train", OracleSearch(3, rate))
    prompt, letters = questions.encoded("train").prompts[7], torch.tensor(questions.letter_token_ids("train"))
    offsets = {layer: torch.zeros(1, 64, requires_grad=True) for layer in (2, 3)}
    gated = gated_model()
    for layer, offset_TE in offsets.items():
        gated.gates[layer].head = _Moved(offset_TE)
    mean = {layer: torch.zeros(1, 64) for layer in offsets}
    square = {layer: torch.zeros(1, 64) for layer in offsets}
    for step in range(1, 5):
        log_probs_A = functional.log_softmax(gated(prompt.ids_S[None].long())[0, letters], dim=-1)
        if step == 4:
            break
        gradients = torch.autograd.grad(-log_probs_A[prompt.gold], [*offsets.values()])
        for layer, gradient in zip(offsets, gradients, strict=True):
            mean[layer] = 0.9 * mean[layer] + 0.1 * gradient
            square[layer] = 0.999 * square[layer] + 0.001 * gradient.square()
            update = mean[layer] / (1 - 0.9**step) / ((square[layer] / (1 - 0.999**step)).sqrt() + 1e-8)
            with torch.no_grad():
                offsets[layer] -= rate * update
    torch.testing.assert_close(sought.log_probs_QA[7], log_probs_A.detach(), atol=1e-3, rtol=1e-3)
    for layer in offsets:
        probs_E = gated.trace.outputs[layer].probs_TE[-1].detach()
        torch.testing.assert_close(sought.routes.probs_QE[layer][7], probs_E, atol=1e-3, rtol=1e-2)


def test_where_there_is_no_answer_position_it_is_refused():
    with pytest.raises(ConfigError, match="choices whose texts"):
        routing_oracle(gated_model(), asked(protocol="cloze"), "train")
    gated = gated_model()
    gated.adapt({"r": 2, "target_modules": ["q_proj"]})
    with pytest.raises(ConfigError, match="LoRA"):
        routing_oracle(gated, asked(), "train")
