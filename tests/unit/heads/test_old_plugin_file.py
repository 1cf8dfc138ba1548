"""A plug-in file written for the first house: its imports, traits, stages and arguments still do."""

import shutil
from pathlib import Path

import pytest
import torch
from made_up import layer_table, loss_context

from moe_tune.base.plugins import load_plugin_file
from moe_tune.gates.gated_model import TunedRouters
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import AuxLoss

FILE = Path(__file__).parents[2] / "golden" / "old" / "old_head.py.txt"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    file = tmp_path_factory.mktemp("old") / "old_plugin.py"
    return load_plugin_file(str(shutil.copy(FILE, file)))


def test_its_head_decides_and_trains(old, family, tiny_model, batch):
    assert issubclass(old.OldHead, RouterHead)
    routers = TunedRouters(tiny_model, family, old.OldHead())
    for head in routers.heads.values():
        head.calibrate(layer_table())
    tiny_model(**batch).logits.logsumexp(-1).sum().backward()
    assert all(head.usage_E.any() and head.factor_E.grad.any() for head in routers.heads.values())


def test_its_loss_computes(old, random_trace):
    assert issubclass(old.OldLoss, AuxLoss)
    trace, loss = random_trace((4, 1, 3), 5), old.OldLoss(0.5, "linear")
    wanted = torch.stack([one.logits_TE[trace.real_T].square().mean() for one in trace.outputs.values()]).mean()
    torch.testing.assert_close(loss.compute(trace, loss_context(questions=3)), wanted)
    assert loss.current_weight(0.5) == 0.25
