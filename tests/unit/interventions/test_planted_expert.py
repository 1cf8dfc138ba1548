"""Planted truth: one rarely used expert carries the answer; interventions find it, its usage does not."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.interventions.answers import answers_under, arrays_of
from moe_tune.interventions.effects import differences, effect_frame
from moe_tune.interventions.plan import single
from moe_tune.interventions.untouched import seen_untouched
from moe_tune.interventions.walk import walk_of
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import family_of
from moe_tune.tuner.evaluate import quiz
from moe_tune.tuner.offsets import examiner_of

BASE = BaseModel("nano", experts_implementation="eager")
EXPERTS = 16


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return questions and a model of one layer whose least used expert alone says anything; it says the answer."""
    config = AutoConfig.from_pretrained(BASE.load()[0].config._name_or_path)
    config.num_hidden_layers, config.num_experts, config.num_experts_per_tok = 1, EXPERTS, 4
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="eager").eval()
    for one in model.parameters():
        if one.dim() > 1:
            torch.nn.init.normal_(one, std=1.5 * one.shape[-1] ** -0.5)
    with torch.no_grad():  # answer tokens, which are all alike, differ by what they attend to
        model.model.layers[0].self_attn.o_proj.weight *= 8
    gated = GatedModel(model, family_of("olmoe"), IdentityHead(), "all")
    questions = quiz(NanoQuiz(24, 200), BASE, protocol="nano_quiz", eval_batch_size=64)
    folder = tmp_path_factory.mktemp("prompts")
    walk = walk_of(examiner_of(gated, questions, AnswerPath(folder=str(folder))), "validation", [0], "answer")
    batches = list(questions.loader("validation"))
    usage_E = seen_untouched(walk, batches, {}, [0], means=False).layers[0].usage_E
    carrier = min((one for one in range(EXPERTS) if usage_E[one] > 0.1), key=lambda one: usage_E[one])
    down_EDI = model.model.layers[0].mlp.experts.down_proj
    with torch.no_grad():
        for expert in range(EXPERTS):
            down_EDI[expert] *= 100.0 if expert == carrier else 0.01
    untouched = seen_untouched(walk, batches, {}, [0], means=True)
    # The right answer is what the model says, and it is the carrier that says it where it is asked.
    untouched.gold_Q = untouched.log_probs_QA.argmax(-1)
    return walk, batches, untouched, carrier


@pytest.mark.parametrize("kind", ["mask", "drop", "mean"])
def test_interventions_rank_the_carrier_first_where_usage_ranks_it_low(planted, kind):
    walk, batches, untouched, carrier = planted
    many = [single(kind, 0, expert) for expert in range(EXPERTS)]
    arrays = arrays_of(answers_under(walk, batches, {}, untouched, many, ""))
    answers = {one: {what: values[at] for what, values in arrays.items()} for at, one in enumerate(many)}
    found = differences(untouched, answers)
    frame = effect_frame(many, found, untouched, np.arange(len(untouched.gold_Q)), "answer")
    size_E = frame["log_prob"].abs()
    assert int(size_E.argmax()) == carrier
    assert size_E[carrier] > 2 * size_E.drop(carrier).max()
    assert frame.loc[carrier, "p_claim"] < 0.05
    assert frame.loc[carrier, "p_reference"] == pytest.approx(1 / (1 + frame.loc[carrier, "reference_draws"]))
    assert frame.loc[carrier, "log_prob_treated"] < frame.loc[carrier, "log_prob"] < 0
    assert frame.loc[carrier, "accuracy"] < -0.05
    usage_E = untouched.layers[0].usage_E
    used = np.flatnonzero(usage_E > 0.1)
    assert carrier == used[usage_E[used].argmin()], "by usage it is the last of those that are used"
