"""What every test shares: no network, one seed, tiny models with routers that discriminate, and made-up traces."""

import os
import tempfile

os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# Models this small gain nothing from threads, and on a busy machine threads that wait for one another cost tenfold; the
# processes that tests start are told, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="moe_tune-tests-")  # prompt caches, shared by a process's tests

os.environ["XDG_STATE_HOME"] = os.path.join(os.environ["XDG_CACHE_HOME"], "state")  # the ledger, of a process's tests

import atexit
import logging
import random
import shutil

import lightning.pytorch  # noqa: F401 - sets up its handlers, which are taken away below
import numpy as np
import pytest
import torch
from hypothesis import settings

from moe_tune.data import splits
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.models.families import families_with_files, family_of
from moe_tune.routing import RouterOutput, RoutingTrace, SoftmaxRule, stable_top_k

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
settings.register_profile("moe_tune", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("moe_tune")

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Lightning writes to the standard error it found when it was imported, which pytest has closed by the next test.
for _name in ("lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).handlers.clear()
    logging.getLogger(_name).propagate = True


_READ = {}


def _read_once(source, split, *how):
    """Read a split of the nano quiz once per process: its 18,000 questions are most of a tiny fit's time."""
    if type(source) is not NanoQuiz:
        return _validate_split(source, split, *how)
    key = (NanoQuiz.rows, *source.known_sizes.items(), source.seed, split, *how)
    if key not in _READ:
        _READ[key] = _validate_split(source, split, *how)
    return _READ[key]


_validate_split, splits.validate_split = splits.validate_split, _read_once

LOOKED_AT = ("test_evidence_log", "test_other_loggers")
"""Tests whose own fits draw figures; fixtures of more than one test always do."""


@pytest.fixture(autouse=True)
def _clean_torch():
    """Start every test from one seed, and undo what Lightning sets for the whole process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
    """Draw the figures of an evaluation only where they are looked at: they take most of a tiny fit's time."""
    if request.path.parent.name in ("golden", "integration") and request.path.stem not in LOOKED_AT:
        monkeypatch.setattr("moe_tune.callbacks.evidence_log.evidence_figures", lambda *_: {})


@pytest.fixture(params=[*families_with_files()])
def family(request):
    return family_of(request.param)


@pytest.fixture
def build_model():
    """Give a function that builds a fresh tiny model of a family, the same for the same seed."""
    from transformers import AutoModelForCausalLM

    def build(family, seed=0, dtype=torch.float32, experts="eager", **changes):
        config = family.tiny_config()
        for key, value in changes.items():
            setattr(config, key, value)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation=experts)
        for block in family.moe_layers(model).values():
            # A gate that hardly prefers any expert would let faults pass; logits of a spread of about 1 do not.
            torch.nn.init.normal_(block.get_submodule(family.gate_path).weight, std=4 / config.hidden_size**0.5)
        return model.eval()

    return build


@pytest.fixture
def tiny_model(family, build_model):
    return build_model(family)


@pytest.fixture
def batch():
    """Give five questions of different lengths, padded on the right."""
    ids_BS = torch.randint(1, 64, (5, 9), generator=torch.Generator().manual_seed(1))
    lengths = (9, 6, 3, 8, 1)
    mask_BS = torch.tensor([[1] * length + [0] * (9 - length) for length in lengths])
    return {"input_ids": ids_BS * mask_BS, "attention_mask": mask_BS}


def made_up_trace(lengths, positions, layers=(0, 1, 2), experts=8, top_k=2, seed=0, renormalise=False, spare=False):
    """Return a trace of random routing whose logits are leaves that want a gradient.

    Args:
        lengths: Real tokens of each question; the rest up to ``positions`` is padding on the right.
        positions: Length of the padded batch.
        layers: MoE layers.
        experts: E.
        top_k: K.
        seed: The routing of question i depends on the seed and i alone, so that batches can be cut and joined.
        renormalise: The family's rule.
        spare: Leave some slots unused.
    """
    rule = SoftmaxRule(top_k, experts, renormalise)
    mask_BS = torch.tensor([[1] * length + [0] * (positions - length) for length in lengths])
    trace = RoutingTrace.of_batch(mask_BS)
    for layer in layers:
        rows, hidden, base = [], [], []
        for question in range(len(lengths)):
            draw = torch.Generator().manual_seed(1000 * seed + 10 * question + layer)
            rows.append(2 * torch.randn(positions, experts, generator=draw))
            hidden.append(torch.randn(positions, 16, generator=draw))
            base.append(2 * torch.randn(positions, experts, generator=draw))
        logits_TE = torch.cat(rows).requires_grad_()
        probs_TE = rule.probabilities(logits_TE)
        experts_TK = stable_top_k(logits_TE, top_k)
        weights_TK, used_TK = rule.weights(probs_TE, experts_TK), None
        if spare:
            used_TK = torch.ones_like(experts_TK, dtype=torch.bool)
            used_TK[logits_TE[:, 0] > 0, -1] = False
            experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1])
            weights_TK = torch.where(used_TK, weights_TK, 0.0)
        extras = {"base_logits_TE": torch.cat(base), "hidden_TD": torch.cat(hidden), "rule": rule}
        extras["own_probs_TE"] = probs_TE
        trace.record(RouterOutput(logits_TE, probs_TE, weights_TK, experts_TK, trace.real_T, layer, used_TK, **extras))
    return trace


@pytest.fixture
def random_trace():
    return made_up_trace


@pytest.fixture
def exempt(record_property):
    """Give a function that notes why a law does not bind a class; the matrix of ``make conformance`` shows it."""
    return lambda reason: record_property("exempt", reason)


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("reference"):
            item.user_properties.append(("reference", " ".join(mark.args)))
