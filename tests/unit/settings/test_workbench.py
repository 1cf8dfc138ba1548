"""A base model that runs share is the one that was loaded, or the next run says which tensors differ."""

import weakref

import pytest
import torch

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.settings.workbench import Workbench
from moe_tune.tuner.router_tuner import RouterTuner


@pytest.fixture
def next_run():
    """Give a function that opens the next run's model on one bench."""
    bench, wanted = Workbench(), BaseModel("nano", experts_implementation="eager")

    def opened(head, **more):
        tuner = RouterTuner(wanted, head, **more)
        bench.begin(tuner)
        tuner.base = bench.base(wanted)
        tuner.configure_model()
        return tuner.gated

    return opened


def logits(gated):
    with torch.no_grad():
        return gated(torch.arange(12)[None])


def test_a_lora_does_not_survive_into_the_next_run(next_run):
    stock, known = logits(gated := next_run(IdentityHead())), gated.fingerprint
    adapted = next_run(RetunedHead(), peft={"r": 4, "target_modules": ["q_proj", "v_proj"]})
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(logits(adapted), stock, atol=0.1)
    after = next_run(IdentityHead())
    assert torch.equal(logits(after), stock)
    assert after.fingerprint == known


def test_a_base_that_is_not_the_one_that_was_loaded_is_refused(next_run):
    name = "model.layers.1.self_attn.q_proj.weight"
    with torch.no_grad():
        next_run(IdentityHead()).model.get_parameter(name)[0, 0] += 1
    with pytest.raises(ModelError, match=rf"1 tensors differ: \['{name}'\].* Hint: "):
        next_run(IdentityHead())


def test_a_refused_lora_leaves_the_base_as_it_was(next_run):
    stock = logits(next_run(IdentityHead()))
    for options in ({"r": 4, "target_modules": ["q_proj", "no_such"]}, {"rank": 4}):
        with pytest.raises(ConfigError):
            next_run(IdentityHead(), peft=options)
    assert torch.equal(logits(next_run(IdentityHead())), stock)


def test_the_next_run_lets_go_of_what_the_one_before_held(next_run):
    held = weakref.ref(next_run(IdentityHead()))
    held().__dict__["me"] = held()  # as module, trainer and callbacks know one another
    next_run(IdentityHead())
    assert held() is None


def test_shared_data_do_not_hold_the_last_run():
    bench, quiz = Workbench(), QuizDataModule(NanoQuiz())
    tuner = RouterTuner(BaseModel("nano"), IdentityHead())
    bench.quiz({"source": "nano"}, quiz)
    bench.begin(tuner)
    quiz.trainer = object()  # as Lightning does
    bench.end()
    assert quiz.trainer is None
