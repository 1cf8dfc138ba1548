"""Losses that carry something from micro-batch to micro-batch or from step to step."""

import pytest
import torch
from made_up import loss_context

from moe_tune.losses import global_load_balance, marginal_entropy, relu_l1
from moe_tune.losses.global_load_balance import GlobalLoadBalanceLoss
from moe_tune.losses.load_balance import LoadBalanceLoss
from moe_tune.losses.marginal_entropy import MarginalEntropyLoss
from moe_tune.losses.relu_l1 import ReluL1Loss, balanced_l1
from moe_tune.routing import RouterOutput, entropy

LENGTHS, POSITIONS, LAYERS = (4, 1, 3, 5, 2), 5, (0, 1, 2)
E, K = 8, 2


def rows(trace, layer):
    return trace.outputs[layer].rows(trace.real_T)


# Global load balance


def test_counts_grow_over_micro_batches_and_start_again_after_a_step(random_trace):
    first, second = random_trace(LENGTHS, POSITIONS, seed=1), random_trace(LENGTHS, POSITIONS, seed=2)
    loss, context = GlobalLoadBalanceLoss(), loss_context()
    alone = LoadBalanceLoss().compute(first, context)
    torch.testing.assert_close(loss.compute(first, context), alone)
    values = []
    for layer in LAYERS:
        counts_E = rows(first, layer).counts_E() + rows(second, layer).counts_E()
        probs_E = rows(second, layer).probs_TE.mean(0)
        values.append(sum(E * counts_E[i] / counts_E.sum() * probs_E[i] for i in range(E)))
    torch.testing.assert_close(loss.compute(second, context), sum(values) / 3)
    loss.after_step()
    assert loss.state == {}
    torch.testing.assert_close(loss.compute(first, context), alone)


def test_the_gradient_is_that_of_the_current_micro_batch(random_trace):
    first, second = random_trace(LENGTHS, POSITIONS, seed=1), random_trace(LENGTHS, POSITIONS, seed=2)
    loss, context = GlobalLoadBalanceLoss(), loss_context()
    loss.compute(first, context)
    loss.compute(second, context).backward()
    assert all(output.logits_TE.grad is None for output in first.outputs.values())
    assert all(output.logits_TE.grad.abs().max() > 0 for output in second.outputs.values())
    assert not any(one.requires_grad for one in loss.state.values())


def test_the_other_processes_choices_count(random_trace, monkeypatch):
    mine, theirs = random_trace(LENGTHS, POSITIONS, seed=1), random_trace(LENGTHS, POSITIONS, seed=2)
    other_LE = torch.stack([rows(theirs, layer).counts_E() for layer in LAYERS])
    monkeypatch.setattr(global_load_balance, "summed_over_ranks", lambda counts_LE: counts_LE + other_LE)
    two_processes = GlobalLoadBalanceLoss().compute(mine, loss_context())
    monkeypatch.undo()
    two_batches = GlobalLoadBalanceLoss()
    two_batches.compute(theirs, loss_context())
    torch.testing.assert_close(two_processes, two_batches.compute(mine, loss_context()))


# Marginal entropy


def test_the_moving_average_is_that_of_the_formula(random_trace):
    traces = [random_trace(LENGTHS, POSITIONS, seed=seed) for seed in range(3)]
    loss, ema = MarginalEntropyLoss(momentum=0.8), {}
    for trace in traces:
        values = []
        for layer in LAYERS:
            mean_E = rows(trace, layer).probs_TE.mean(0)
            marginal_E = 0.8 * ema[layer] + 0.2 * mean_E if layer in ema else mean_E
            ema[layer] = marginal_E.detach()
            values.append(-entropy(marginal_E))
        torch.testing.assert_close(loss.compute(trace, loss_context()), torch.stack(values).mean())
        loss.after_step()
    for layer in LAYERS:
        torch.testing.assert_close(loss.state[f"ema_{layer}"], ema[layer])
        assert not loss.state[f"ema_{layer}"].requires_grad


def test_the_gradient_of_the_moving_average_shrinks_by_the_past(random_trace):
    trace, loss = random_trace(LENGTHS, POSITIONS), MarginalEntropyLoss(momentum=0.9)
    leaves = [output.logits_TE for output in trace.outputs.values()]
    whole = torch.autograd.grad(loss.compute(trace, loss_context()), leaves, retain_graph=True)
    tenth = torch.autograd.grad(loss.compute(trace, loss_context()), leaves)  # the same batch: the same average
    for one, other in zip(whole, tenth, strict=True):
        torch.testing.assert_close(other, 0.1 * one, rtol=1e-4, atol=1e-7)


def test_processes_share_one_moving_average(random_trace, monkeypatch):
    loss = MarginalEntropyLoss(momentum=0.9)
    loss.compute(random_trace(LENGTHS, POSITIONS), loss_context())
    mine_E, other_E = loss.state["ema_0"], torch.full((E,), 1 / E)
    monkeypatch.setattr(
        marginal_entropy, "summed_over_ranks", lambda one: 2 * one if bool((one == 1).all()) else one + other_E
    )
    loss.after_step()
    torch.testing.assert_close(loss.state["ema_0"], (mine_E + other_E) / 2)


def test_without_momentum_nothing_is_carried(random_trace):
    loss = MarginalEntropyLoss()
    loss.compute(random_trace(LENGTHS, POSITIONS), loss_context())
    loss.after_step()
    assert loss.state == {}


# ReLU L1


def with_slots(trace, used):
    """Let every token of every layer use the given number of four slots."""
    for output in trace.outputs.values():
        experts_TK = output.logits_TE.detach().topk(4).indices
        output.used_TK = (torch.arange(4) < used).expand_as(experts_TK)
        output.experts_TK = torch.where(output.used_TK, experts_TK, experts_TK[:, :1])
        output.weights_TK = torch.where(output.used_TK, output.probs_TE.gather(-1, experts_TK), 0.0)
    return trace


@pytest.mark.parametrize(("used", "factor"), [(3, 1.2), (2, 1 / 1.2), (1, 1 / 1.2)])
def test_lambda_rises_while_more_than_k_slots_are_in_use(used, factor, random_trace):
    loss = ReluL1Loss()
    assert loss.state["lambda"].item() == pytest.approx(1e-8)
    for step in range(1, 4):
        for seed in range(2):
            loss.compute(with_slots(random_trace(LENGTHS, POSITIONS, seed=seed), used), loss_context())
        loss.after_step()
        assert loss.state["lambda"].item() == pytest.approx(1e-8 * factor**step, rel=1e-5)
    assert list(loss.state) == ["lambda"]


def test_sparsity_is_taken_over_all_micro_batches_of_a_step(random_trace):
    """3 slots in one batch and 1 in a larger one are fewer than 2 on average; in two like ones exactly 2."""
    for lengths, factor in (((5, 5, 5, 5, 5), 1 / 1.2), (LENGTHS, 1 / 1.2), ((1, 1, 1, 1, 1), 1.2)):
        loss = ReluL1Loss()
        loss.compute(with_slots(random_trace(LENGTHS, POSITIONS), 3), loss_context())
        loss.compute(with_slots(random_trace(lengths, POSITIONS), 1), loss_context())
        loss.after_step()
        assert loss.state["lambda"].item() == pytest.approx(1e-8 * factor, rel=1e-5)


def test_sparsity_is_taken_over_all_processes(random_trace, monkeypatch):
    loss = ReluL1Loss()
    loss.compute(with_slots(random_trace(LENGTHS, POSITIONS), 1), loss_context())
    monkeypatch.setattr(relu_l1, "summed_over_ranks", lambda slots: slots + torch.tensor([1000, 100]))
    loss.after_step()
    assert loss.state["lambda"].item() == pytest.approx(1.2e-8, rel=1e-5)


def test_lambda_scales_the_loss_and_never_reaches_zero(random_trace):
    trace, loss = random_trace(LENGTHS, POSITIONS), ReluL1Loss()
    loss.state["lambda"] = torch.tensor(2.0)
    wanted = torch.stack([balanced_l1(rows(trace, layer), K) for layer in LAYERS]).mean()
    torch.testing.assert_close(loss.compute(trace, loss_context()), 2 * wanted)
    loss.state["lambda"] = torch.tensor(torch.finfo(torch.float32).tiny)
    loss.after_step()
    assert loss.state["lambda"] > 0


def test_a_step_without_a_batch_moves_nothing():
    loss = ReluL1Loss()
    loss.after_step()
    assert loss.state["lambda"].item() == pytest.approx(1e-8)


def test_demand_is_what_makes_an_expert_dear():
    """Three tokens choose expert 0 and one expert 1: a weight on the former costs three times as much."""
    weights_TK = torch.ones(4, 1, requires_grad=True)
    logits_TE, experts_TK = torch.zeros(4, 8), torch.tensor([[0], [0], [0], [1]])
    balanced_l1(RouterOutput(logits_TE, logits_TE, weights_TK, experts_TK, torch.ones(4).bool(), 0), 1).backward()
    torch.testing.assert_close(weights_TK.grad.flatten(), torch.tensor([3.0, 3.0, 3.0, 1.0]) * 8 / 16)
