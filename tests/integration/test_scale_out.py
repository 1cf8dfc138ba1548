"""Beside more processes: accumulated gradients, bfloat16, recomputed layers, torchrun, and ends without a hang."""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from tiny_runs import history, manifest, only_run
from waiting import until

from moe_tune.base.errors import ConfigError
from moe_tune.callbacks.start_up_line import start_up_line
from moe_tune.data.batching import BucketBatchSampler
from moe_tune.heads.loss_free_bias import LossFreeBiasHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.shapes import model_shape
from moe_tune.planning.estimate import Costs, Split
from moe_tune.planning.machine import data_sheet
from moe_tune.settings.running import run
from moe_tune.tuner.router_tuner import RouterTuner

COMMON = [
    *("--config", "configs/nano.yaml", "--config", "configs/logger/none.yaml", "--config", "configs/trainer/cpu.yaml"),
    *("--data.limit_validation", "32", "--data.limit_test", "32", "--data.test_protocols", "[]"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
]
DDP = ("--config", "configs/trainer/ddp.yaml")


class Steps(Callback):
    """Keeps the heads after every optimiser step, the losses of every batch, and how far the schedules had moved."""

    def __init__(self):
        self.states, self.losses, self.progress = [], [], []

    def on_train_batch_end(self, trainer, tuner, outputs, batch, batch_index):
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step > len(self.states):
            self.states.append({name: value.clone() for name, value in tuner.gated.state().items()})

    def on_before_optimizer_step(self, trainer, tuner, optimizer):
        self.progress.append(trainer.global_step / float(trainer.estimated_stepping_batches))


def fitted(root, *words):
    steps = Steps()
    return run(["fit", *COMMON, "--runs_root", str(root), *words], watchers=[steps]).path, steps


# Accumulated gradients


@pytest.fixture
def in_order(monkeypatch):
    """Let batches come in one order whatever their size, so that two small ones are one large one."""
    monkeypatch.setattr(
        BucketBatchSampler,
        "_batches",
        lambda self: self._cut(np.arange(len(self.lengths)), self.batch_size * self.num_replicas),
    )


SGD = ("--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.05")
SMALL = (*SGD, "--data.batch_size", "16", "--config", "configs/trainer/accumulate.yaml")


@pytest.mark.parametrize(
    "questions",
    [
        pytest.param(116, id="a last batch that is not full", marks=pytest.mark.slow),
        pytest.param(100, id="a last step of one batch", marks=pytest.mark.slow),
    ],
)
def test_two_batches_of_16_are_one_of_32(tmp_path, in_order, questions):
    limit = ("--data.limit_train", str(questions))
    large, whole = fitted(tmp_path / "large", *SGD, "--data.batch_size", "32", *limit)
    small, halves = fitted(tmp_path / "small", *SMALL, *limit)
    assert len(halves.losses) > len(whole.losses) == len(whole.states) == len(halves.states) == 4
    assert halves.progress == whole.progress == [0, 0.25, 0.5, 0.75]
    for ours, theirs in zip(halves.states, whole.states, strict=True):
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-5, msg=name)
    for lines in zip(*((path / "metrics.jsonl").read_text().splitlines() for path in (small, large)), strict=False):
        ours, theirs = map(json.loads, lines)
        if "validation/loss" in theirs:
            assert ours["validation/loss"] == pytest.approx(theirs["validation/loss"], rel=1e-5)


def test_a_mean_over_tokens_is_that_of_the_whole_step_however_it_is_cut(tmp_path):
    """Batches are of prompts of like length: the small ones differ in tokens, and at the end in questions."""
    words = (
        *(*SGD, "--data.limit_train", "36", "--test_after_fit", "false", "--model.task_weight", "0"),
        *("--model.scope", "all", "--model.answer_path.use", "never", "--model.layers", "last-1"),
        *("--model.losses.entropy", "TokenEntropyLoss", "--model.losses.z", "ZLoss"),
    )
    _, whole = fitted(tmp_path / "large", *words, "--data.batch_size", "36")
    cut = ("--data.batch_size", "8", "--trainer.accumulate_grad_batches", "5")
    _, parts = fitted(tmp_path / "small", *words, *cut)
    assert len(parts.losses) == 5
    for name, value in whole.states[0].items():
        torch.testing.assert_close(parts.states[0][name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_the_loss_free_bias_moves_once_a_step(tmp_path, in_order, monkeypatch):
    moves, after_step = [], LossFreeBiasHead.after_step

    def counted(self):
        moves.append(int(self.counts_E.sum()))
        after_step(self)

    monkeypatch.setattr(LossFreeBiasHead, "after_step", counted)
    head = ("--config", "configs/head/loss_free_bias.yaml", "--data.limit_train", "100")
    results = []
    for name, words in (("large", (*SGD, "--data.batch_size", "32")), ("small", SMALL)):
        moves.clear()
        _, steps = fitted(tmp_path / name, *head, *words)
        biases = {key: value for key, value in steps.states[-1].items() if key.endswith("bias_E")}
        results.append((list(moves), len(steps.states), biases))
    assert results[0][:2] == results[1][:2], "as often, and by the choices of as many tokens"
    assert len(results[0][0]) == 4 * len(results[0][2])
    for name, bias_E in results[0][2].items():
        torch.testing.assert_close(results[1][2][name], bias_E, atol=1e-6, rtol=0, msg=name)
        assert bias_E.any()


# bfloat16


@pytest.mark.slow
def test_in_mixed_precision_routing_and_heads_stay_float32(tmp_path):
    seen = set()

    class Dtypes(Callback):
        def on_before_zero_grad(self, trainer, tuner, optimizer):
            for output in tuner.gated.trace.outputs.values():
                seen.update((output.logits_TE.dtype, output.probs_TE.dtype, output.weights_TK.dtype))
            seen.update(parameter.dtype for parameter in tuner.gated.trainable().values())
            seen.update(one.grad.dtype for one in tuner.gated.trainable().values() if one.grad is not None)

    words = ("--config", "configs/trainer/bf16.yaml", "--data.limit_train", "32", "--data.batch_size", "16")
    for scope in ("answer", "all"):
        argv = ["fit", *COMMON, *words, "--model.scope", scope, "--runs_root", str(tmp_path)]
        path = run(argv, watchers=[Dtypes()]).path
        assert seen == {torch.float32}
        tensors = load_file(path / "checkpoints" / "last.ckpt" / "router.safetensors")
        assert {value.dtype for value in tensors.values()} == {torch.float32}
        lines = history(path)
        assert all(math.isfinite(line["validation/accuracy"]) for line in lines if "validation/accuracy" in line)


# Recomputed layers


class Recorded(Callback):
    """Keeps losses, gradients, the bytes that the graph of each step holds, and what was told at the start."""

    def __init__(self):
        self.losses, self.gradients, self.bytes, self.line = [], [], [], ""

    def on_fit_start(self, trainer, tuner):
        self.line = start_up_line(tuner)

    def on_before_backward(self, trainer, tuner, loss):
        self.before = {layer: id(output) for layer, output in tuner.gated.trace.outputs.items()}

    def on_after_backward(self, trainer, tuner):
        after = {layer: id(output) for layer, output in tuner.gated.trace.outputs.items()}
        assert after == self.before, "a layer is recorded once, not again when it is computed again"

    def on_train_batch_end(self, trainer, tuner, outputs, batch, batch_index):
        self.losses.append(outputs["loss"])

    def on_before_optimizer_step(self, trainer, tuner, optimizer):
        self.gradients.append({name: one.grad.clone() for name, one in tuner.gated.trainable().items()})


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Give a function that fits twice, plain and with recomputed layers, and returns what was recorded."""
    training_step = RouterTuner.training_step

    def run_both(*words):
        both = []
        for wanted in ("false", "true"):
            recorded = Recorded()

            def measured(tuner, batch, batch_index, into=recorded):
                held = {}

                def keep(tensor):
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                    return tensor

                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                    loss = training_step(tuner, batch, batch_index)
                weights = {one.untyped_storage().data_ptr() for one in tuner.parameters()}
                into.bytes.append(sum(size for place, size in held.items() if place not in weights))
                return loss

            monkeypatch.setattr(RouterTuner, "training_step", measured)
            key = ("--model.base.gradient_checkpointing", wanted, "--model.base.experts_implementation", "eager")
            small = ("--data.limit_train", "32", "--data.batch_size", "16")
            run(["fit", *COMMON, *small, *key, *words, "--runs_root", str(tmp_path / wanted)], watchers=[recorded])
            both.append(recorded)
        return both

    return run_both


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [(), ("--config", "configs/losses/balance_z.yaml"), ("--config", "configs/peft/attention.yaml")],
    ids=["plain", "losses over routing", "beside a LoRA"],
)
def test_recomputed_layers_give_the_same_losses_and_gradients_in_less_memory(measure, words):
    plain, again = measure("--model.scope", "all", *words)
    torch.testing.assert_close(again.losses, plain.losses, rtol=1e-6, atol=0)
    for ours, theirs in zip(again.gradients, plain.gradients, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert max(again.bytes) < max(plain.bytes) / 2
    assert "gradient checkpointing on" in again.line
    assert "checkpointing" not in plain.line


def test_on_the_answer_path_it_changes_nothing_and_says_so(measure):
    plain, again = measure()
    assert torch.equal(torch.stack(again.losses), torch.stack(plain.losses))
    assert again.bytes == pytest.approx(plain.bytes, rel=1e-3)  # a tensor kept for two batches counts with either
    assert "gradient checkpointing has nothing to save on the answer path" in again.line


def test_a_model_that_cannot_be_recomputed_is_refused(monkeypatch):
    from transformers import OlmoeForCausalLM

    monkeypatch.setattr(OlmoeForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"model\.base\.gradient_checkpointing"):
        BaseModel(gradient_checkpointing=True).load()


def test_the_estimate_knows_that_layers_keep_their_input_alone():
    costs = Costs(model_shape(BaseModel()), torch.float32, 0, data_sheet("H100", torch.bfloat16))
    split = Split(1000, 1e5, 1e5, "made up")
    plain, again = (costs.training_bytes(16, split, False, recomputed=value) for value in (False, True))
    assert again < plain / 2
    assert costs.training_bytes(16, split, True, recomputed=True) == costs.training_bytes(16, split, True)
    seconds = [costs.prompt_seconds(split, 16, training=True, recomputed=value) for value in (False, True)]
    assert 0 < seconds[1] - seconds[0] < costs.prompt_seconds(split, 16), "at most one more forward pass"


# Two processes: torchrun, and ends that nobody planned

FAULTY = """
import os
from pathlib import Path
from lightning.pytorch import Callback

class Watched(Callback):
    def on_train_batch_start(self, trainer, tuner, batch, batch_index):
        if trainer.global_step == 2:
            Path(os.environ["PIDS"], str(trainer.global_rank)).write_text(str(os.getpid()))
        if os.environ.get("FAULT") == str(trainer.global_rank) and trainer.global_step == 3:
            raise ArithmeticError("planted")
"""


@contextmanager
def started(root, *command, **variables):
    """Start a command in a session of its own, and leave none of its processes behind."""
    (root / "watched.py").write_text(FAULTY)
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"PIDS": str(root), "PYTHONPATH": str(root), **variables}
    with (root / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def endless(root):
    words = ["--data.limit_train", "64", "--data.batch_size", "8", "--trainer.callbacks+", "watched.Watched"]
    words += ["--trainer.max_epochs", "1000", "--runs_root", str(root / "runs")]
    return [sys.executable, "-m", "moe_tune", "fit", *COMMON, *DDP, *words]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_of_two_processes_ends_both(tmp_path, rank):
    with started(tmp_path, *endless(tmp_path)) as process:
        files = [tmp_path / "0", tmp_path / "1"]
        until(lambda: all(file.is_file() and file.read_text() for file in files))
        pids = [int(file.read_text()) for file in files]
        os.kill(pids[rank], signal.SIGTERM)
        until(lambda: not any(map(is_running, pids)))
        said = (tmp_path / "said").read_text()
        assert process.wait(120) is not None
        assert "Connection" not in said, "they end together, not one for want of the other"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_in_one_of_two_processes_ends_both(tmp_path, rank):
    with started(tmp_path, *endless(tmp_path), FAULT=str(rank)) as process:
        files = [tmp_path / "0", tmp_path / "1"]
        until(lambda: all(file.is_file() and file.read_text() for file in files))
        pids = [int(file.read_text()) for file in files]
        until(lambda: not any(map(is_running, pids)))
        assert process.wait(120) != 0
        assert "planted" in (tmp_path / "said").read_text()


@pytest.mark.slow
def test_torchrun_makes_one_finished_run(tmp_path):
    words = [*COMMON, *DDP, "--data.limit_train", "32", "--data.batch_size", "8", "--runs_root", str(tmp_path / "runs")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with started(tmp_path, *launcher, "-m", "moe_tune", "fit", *words) as process:
        assert process.wait(300) == 0, (tmp_path / "said").read_text()[-3000:]
    path = only_run(tmp_path / "runs")
    assert manifest(path)["status"] == "finished"
