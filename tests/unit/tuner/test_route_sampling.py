"""Routes are drawn for each question by itself, and answered as the whole model answers with that route."""

import numpy as np
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
from moe_tune.losses.base import RouteSampling
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.evaluate import quiz
from moe_tune.tuner.offsets import examiner_of
from moe_tune.tuner.route_sampling import sampled_routes

BASE, LAYER = BaseModel("nano", experts_implementation="eager"), 3
FEW = RouteSampling(routes=10, seed=4)


def asked(**options):
    return quiz(NanoQuiz(24, 24), BASE, **{"protocol": "nano_quiz", **options})


def gated_model(head=None, layers="last-2", scope="answer"):
    model, family = BASE.load()
    return GatedModel(model, family, head or IdentityHead(), layers, scope)


def sampled(gated, questions, sampling=FEW, way=None):
    return sampled_routes(examiner_of(gated, questions, way), "train", LAYER, sampling)


class _Given(RouterHead):
    """Routes every token to the same experts."""

    traits = HeadTraits()

    def __init__(self, experts_K):
        super().__init__()
        self.experts_K = experts_K

    def select(self, scores_TE):
        scores_TE = scores_TE.clone()
        scores_TE[:, self.experts_K] += 1e4
        return scores_TE


def test_routes_are_gumbel_top_k_and_utilities_those_of_the_full_prompt():
    questions, index = asked(), 7
    routes = sampled(gated_model(), questions)
    assert routes.experts_QNK[LAYER].shape == (24, 10, 8)
    prompt, letters = questions.encoded("train").prompts[index], torch.tensor(questions.letter_token_ids("train"))
    gated = gated_model()
    gated(prompt.ids_S[None].long())
    output = gated.trace.outputs[LAYER].rows(gated.trace.answer_T)
    noise_NE = np.random.default_rng([FEW.seed, index]).gumbel(size=(10, 64))
    for route in (0, 4, 9):
        chosen_K = routes.experts_QNK[LAYER][index, route].long()
        wanted_K = (output.logits_TE[0] + torch.from_numpy(noise_NE[route]).float()).topk(8).indices
        assert set(chosen_K.tolist()) == set(wanted_K.tolist())
        gated.gates[LAYER].head = _Given(chosen_K)
        log_probs_A = functional.log_softmax(gated(prompt.ids_S[None].long())[0, letters], dim=-1)
        acted = gated.trace.outputs[LAYER].rows(gated.trace.answer_T)
        assert torch.equal(acted.experts_TK[0], chosen_K)
        torch.testing.assert_close(acted.weights_TK[0], output.probs_TE[0, chosen_K])
        utility = routes.utility_QN[LAYER][index, route]
        torch.testing.assert_close(utility, log_probs_A[prompt.gold].detach(), atol=1e-4, rtol=1e-4)


def test_a_question_does_not_depend_on_those_beside_it_or_on_the_heads():
    first = sampled(gated_model(), asked(eval_batch_size=24, batch_size=24))
    shaken = gated_model(RetunedHead(), scope="all")
    for parameter in shaken.trainable().values():
        torch.nn.init.normal_(parameter)
    before = {name: value.clone() for name, value in shaken.state().items()}
    others = [
        sampled(gated_model(), asked(eval_batch_size=5, batch_size=5)),
        sampled(gated_model(), asked(), way=AnswerPath(use="never")),
        sampled(shaken, asked()),
    ]
    for other in others:
        assert torch.equal(other.experts_QNK[LAYER], first.experts_QNK[LAYER])
        torch.testing.assert_close(other.utility_QN[LAYER], first.utility_QN[LAYER], atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in shaken.state().items())


def test_the_same_seed_has_the_same_bits_and_another_seed_other_routes():
    questions = asked()
    first, again, other = (sampled(gated_model(), questions, RouteSampling(10, seed)) for seed in (4, 4, 5))
    assert torch.equal(first.experts_QNK[LAYER], again.experts_QNK[LAYER])
    assert torch.equal(first.utility_QN[LAYER], again.utility_QN[LAYER])
    assert not torch.equal(first.experts_QNK[LAYER], other.experts_QNK[LAYER])


def test_where_there_is_no_answer_position_it_is_refused():
    with pytest.raises(ConfigError, match="choices whose texts"):
        sampled(gated_model(), asked(protocol="cloze"))
