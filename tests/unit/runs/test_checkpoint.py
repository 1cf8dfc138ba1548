"""Checkpoints: exact round trips, plain types only, and no changed, missing or foreign file goes unnoticed."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from moe_tune.base.errors import ModelError
from moe_tune.runs.checkpoint import CONFIG, MANIFEST, ROUTER, STATE, RouterCheckpointIO, checked_folder


class _Gadget:
    def __reduce__(self):
        return (print, ("code of the checkpoint's author ran",))


@pytest.fixture
def saved(tmp_path):
    """Give a checkpoint folder and what was put into it."""
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    optimiser = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimiser.step()
    state = {
        "state_dict": {"layers.1.weight": parameter.detach(), "layers.1.theta": torch.tensor(0.5)},
        "optimizer_states": [optimiser.state_dict()],
        "epoch": 3,
        "loops": {"fit": {"done": 7}},
    }
    folder = tmp_path / "last.ckpt"
    RouterCheckpointIO(lambda: "model: x\n").save_checkpoint(state, folder)
    return folder, state


def test_a_round_trip_is_exact(saved):
    folder, state = saved
    loaded = RouterCheckpointIO().load_checkpoint(folder)
    assert loaded.keys() == state.keys()
    assert loaded["loops"] == state["loops"]
    for name, value in state["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], value)
    moments, wanted = (part["optimizer_states"][0]["state"][0] for part in (loaded, state))
    assert all(torch.equal(moments[key], wanted[key]) for key in wanted)
    assert "state_dict" in state, "the caller's dictionary is left alone"


def test_the_folder_holds_what_it_says(saved):
    folder, state = saved
    assert sorted(path.name for path in folder.iterdir()) == sorted([ROUTER, STATE, CONFIG, MANIFEST])
    assert load_file(folder / ROUTER).keys() == state["state_dict"].keys()
    assert (folder / CONFIG).read_text() == "model: x\n"
    assert json.loads((folder / MANIFEST).read_text())["sha256"].keys() == {ROUTER, STATE, CONFIG}


def test_tensors_that_share_memory_are_saved(tmp_path):
    """safetensors refuses views of one storage; heads may hold them."""
    whole = torch.randn(4, 6)
    RouterCheckpointIO().save_checkpoint({"state_dict": {"a": whole[:, :3], "b": whole[:, 3:]}}, tmp_path / "c")
    loaded = RouterCheckpointIO().load_checkpoint(tmp_path / "c")["state_dict"]
    assert torch.equal(loaded["a"], whole[:, :3])
    assert torch.equal(loaded["b"], whole[:, 3:])


@pytest.mark.parametrize("name", [ROUTER, STATE, CONFIG])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_is_noticed(saved, name, damage):
    folder, _ = saved
    file = folder / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-1]), "empty": b""}[damage])
    with pytest.raises(ModelError, match=name):
        RouterCheckpointIO().load_checkpoint(folder)


def test_what_is_not_a_checkpoint_is_refused(saved, tmp_path):
    folder, _ = saved
    (folder / MANIFEST).unlink()
    for path in (folder, tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelError, match="ckpt_path"):
            checked_folder(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"sha256": {}}'])
def test_a_spoilt_manifest_is_refused(saved, content):
    folder, _ = saved
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ModelError):
        RouterCheckpointIO().load_checkpoint(folder)


def test_foreign_code_never_runs(saved, capsys):
    """Even with a manifest that matches, only plain types are read."""
    folder, _ = saved
    torch.save({"epoch": _Gadget()}, folder / STATE)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"][STATE] = hashlib.sha256((folder / STATE).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError):
        RouterCheckpointIO().load_checkpoint(folder)
    assert "ran" not in capsys.readouterr().out


def test_a_failed_write_keeps_the_previous_checkpoint(saved):
    folder, state = saved
    with pytest.raises(ValueError, match="full"):
        RouterCheckpointIO().save_checkpoint({**state, "epoch": _Full()}, folder)
    assert RouterCheckpointIO().load_checkpoint(folder)["epoch"] == 3
    assert [path.name for path in folder.parent.iterdir()] == ["last.ckpt"]


class _Full:
    def __reduce__(self):
        raise ValueError("disk full")


def test_removing_a_checkpoint_removes_its_folder(saved):
    folder, _ = saved
    RouterCheckpointIO().remove_checkpoint(folder)
    RouterCheckpointIO().remove_checkpoint(folder)
    assert not folder.exists()
