"""The mean of runs is their routers' mean, acts as a retuned router of that weight, and takes runs that go together."""

import pytest
import torch
from kept_state import KEPT
from torch.nn import functional

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.guard import Guard
from moe_tune.heads.mean_of_runs import MeanOfRuns
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.strength import Strength
from moe_tune.routing import SoftmaxRule
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import to_yaml

RULE = SoftmaxRule(2, 8, False)
BASE_ED = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
GATE = BaseGate(BASE_ED, RULE, 1)
RETUNED = {"class_path": "moe_tune.heads.retuned.RetunedHead"}
LOW_RANK = {"class_path": "moe_tune.heads.low_rank.LowRankHead", "init_args": {"rank": 2, "alpha": 4.0}}
DENSE = {"class_path": "moe_tune.heads.dense_mixer.DenseMixerHead"}
WARM = {"class_path": "moe_tune.heads.temperature.TemperatureHead", "init_args": {"mode": "learned"}}


def stack(**parts):
    return {"class_path": "moe_tune.heads.stack.Stack", "init_args": {"parts": parts}}


@pytest.fixture
def run(tmp_path):
    """Give a function that writes a run with one checkpoint, and returns its folder."""

    def write(seed, head=RETUNED, layers=(1, 2), scope="answer", fingerprint="0" * 16, shape=(8, 16), **model):
        config = to_yaml({"model": {"head": head, "scope": scope, **model}})
        draw = torch.Generator().manual_seed(seed)
        names = {"LowRankHead": {"down_RD": (2, 16), "up_ER": (8, 2)}, "Stack": {"parts.own.weight": shape}}
        tensors = names.get(head["class_path"].rpartition(".")[2], {"weight": shape})
        if WARM in head.get("init_args", {}).get("parts", {}).values():
            tensors = {**tensors, "parts.heat.theta": ()}
        state = {
            f"layers.{layer}.{name}": torch.randn(size, generator=draw)
            for layer in layers
            for name, size in tensors.items()
        }
        folder = tmp_path / f"run-s{seed}"
        kept = KEPT | {"state_dict": state, "base": {"fingerprint": fingerprint}}
        RouterCheckpointIO(lambda: config).save_checkpoint(kept, folder / "checkpoints" / "best.ckpt")
        return str(folder), state

    return write


@pytest.mark.reference("MeanOfRuns")
def test_it_is_the_mean_of_what_the_runs_route_with(run):
    (one, first), (other, second) = run(0), run(1)
    bound = MeanOfRuns([one, f"{other}/checkpoints/best.ckpt"]).bound_to(GATE)
    mean_ED = (first["layers.1.weight"] + second["layers.1.weight"]) / 2
    torch.testing.assert_close(bound.weight_ED, mean_ED)
    assert not list(bound.parameters())
    hidden_TD = torch.randn(50, 16)
    came = decide(bound, RULE, hidden_TD, functional.linear(hidden_TD, BASE_ED))
    wanted = decide(None, RULE, hidden_TD, functional.linear(hidden_TD, mean_ED))
    assert torch.equal(came.experts_TK, wanted.experts_TK)
    torch.testing.assert_close(came.weights_TK, wanted.weights_TK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bound.router_weight(BASE_ED), mean_ED)


def test_of_low_ranks_it_is_the_mean_of_the_products(run):
    (one, first), (other, second) = run(0, LOW_RANK), run(1, LOW_RANK)
    products = [2.0 * state["layers.1.up_ER"] @ state["layers.1.down_RD"] for state in (first, second)]
    weight_ED = MeanOfRuns([one, other]).bound_to(GATE).weight_ED
    torch.testing.assert_close(weight_ED, BASE_ED + (products[0] + products[1]) / 2)


def test_of_one_run_it_is_that_run(family, build_model, batch, run):
    """Up to rounding, with a part beside it that acts in the gradient alone; also within another head."""
    folder, state = run(0, stack(own=RETUNED, dense=DENSE))
    answers = []
    for head in (RetunedHead(), MeanOfRuns([folder]), Strength(MeanOfRuns([folder])), Guard(MeanOfRuns([folder]))):
        gated = GatedModel(build_model(family), family, head, [1, 2])
        if isinstance(head, RetunedHead):
            gated.load_state({name.replace("parts.own.", ""): value for name, value in state.items()}, "test")
        with torch.no_grad():
            answers.append(gated.model(**batch).logits)
    for one in answers[1:]:
        torch.testing.assert_close(one, answers[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head": LOW_RANK}, "same head"),
        ({"layers": (1,)}, "same layers"),
        ({"scope": "all"}, "same scope"),
        ({"fingerprint": "1" * 16}, "same base model"),
        ({"peft": {"r": 4}}, "LoRA"),
        ({"shape": (8, 32)}, "of this base model"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(change, said, run):
    with pytest.raises(ConfigError, match=rf"{said}.*head\.runs"):
        MeanOfRuns([run(0)[0], run(1, **change)[0]]).bound_to(GATE)


def test_what_is_no_router_weight_is_refused(run):
    with pytest.raises(ConfigError, match="a router weight"):
        MeanOfRuns([run(0, stack(own=RETUNED, heat=WARM))[0]]).bound_to(GATE)


def test_a_layer_that_no_run_has_trained_is_refused(run):
    with pytest.raises(ConfigError, match=r"layers of \[1, 2\] but got 0"):
        MeanOfRuns([run(0)[0]]).bound_to(BaseGate(BASE_ED, RULE, 0))


def test_runs_of_another_base_model_are_refused(family, build_model, run):
    gated = GatedModel(build_model(family), family, Strength(MeanOfRuns([run(0)[0]])), [1, 2])
    with pytest.raises(ConfigError, match=r"MeanOfRuns.*model\.base"):
        gated.refuse_foreign(gated.heads)
    own = run(1, fingerprint=gated.fingerprint)[0]
    gated.refuse_foreign(gated.bind(MeanOfRuns([own]), [1, 2]))


def test_no_run_and_a_run_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"head\.runs"):
        MeanOfRuns([])
    with pytest.raises(DataError, match="nowhere"):
        MeanOfRuns([str(tmp_path / "nowhere")]).bound_to(GATE)
