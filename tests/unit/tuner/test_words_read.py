"""Training projects onto the letters alone where nothing reads the rest of a large vocabulary; losses are equal."""

from types import SimpleNamespace

import pytest
import torch

from moe_tune.gates import gated_model
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.tuner.objective import judge, words_read

LETTERS = (3, 4, 5, 6)
BATCH = SimpleNamespace(choices=None, gold_B=torch.tensor([0, 3, 1]), choice_count_B=torch.tensor([4, 4, 3]))


@pytest.fixture
def gated(family, tiny_model, monkeypatch):
    monkeypatch.setattr(gated_model, "MANY_WORDS", 16)
    return GatedModel(tiny_model, family, RetunedHead())


def test_losses_and_gradients_of_the_letters_alone_are_those_of_the_whole(gated):
    losses, gradients = [], []
    for whole in (True, False):
        hidden_BD = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        words, letters = words_read(gated, BATCH, LETTERS, "letters", whole=whole)
        logits = gated.vocabulary_logits(hidden_BD, words)
        assert logits.shape[1] == (64 if whole else 4)
        loss_B = judge(logits, BATCH, letters, "letters", "here").loss_B
        loss_B.sum().backward()
        losses.append(loss_B.detach())
        gradients.append(hidden_BD.grad)
    assert torch.allclose(*losses, atol=1e-6)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "task_loss", "whole"),
    [({}, "vocabulary", False), ({}, "letters", True), ({"choices": object()}, "letters", False)],
)
def test_all_words_are_read_where_something_needs_them(gated, changes, task_loss, whole):
    batch = SimpleNamespace(**{**vars(BATCH), **changes})
    assert words_read(gated, batch, LETTERS, task_loss, whole=whole) == (None, LETTERS)


def test_a_small_vocabulary_is_projected_whole(gated, monkeypatch):
    monkeypatch.setattr(gated_model, "MANY_WORDS", 64)
    assert words_read(gated, BATCH, LETTERS, "letters", whole=False) == (None, LETTERS)
