"""Checkpoints: exact round trips, plain types only, and no changed, missing or foreign file goes unnoticed."""

import hashlib
import json
import math
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moe_tune.base.checkpoint_folder import CONFIG, MANIFEST, PICKLED, ROUTER, STATE, STATE_TENSORS, checked_folder
from moe_tune.base.errors import ModelError
from moe_tune.base.plain_state import load_state, save_state
from moe_tune.runs.checkpoint import RouterCheckpointIO

ADAPTER_FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
EVERY = (ROUTER, STATE, STATE_TENSORS, CONFIG, *ADAPTER_FILES)


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
    heads = {"layers.1.weight": parameter.detach(), "layers.1.theta": torch.tensor(0.5)}
    state = {
        "state_dict": heads | {"adapter.q.lora_A.weight": torch.randn(2, 3)},
        "adapter": {"peft_type": "LORA"},
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
    assert loaded.keys() == state.keys() - {"adapter"}
    assert loaded["loops"] == state["loops"]
    for name, value in state["state_dict"].items():
        assert torch.equal(loaded["state_dict"][name], value)
    moments, wanted = (part["optimizer_states"][0]["state"][0] for part in (loaded, state))
    assert all(torch.equal(moments[key], wanted[key]) for key in wanted)
    assert "state_dict" in state, "the caller's dictionary is left alone"


def test_the_folder_holds_what_it_says(saved):
    folder, state = saved
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*EVERY, MANIFEST}
    assert load_file(folder / ROUTER).keys() == state["state_dict"].keys()
    assert (folder / CONFIG).read_text() == "model: x\n"
    assert json.loads((folder / MANIFEST).read_text())["sha256"].keys() == {*EVERY}
    assert load_file(folder / ADAPTER_FILES[0]).keys() == {"q.lora_A.weight"}
    assert json.loads((folder / ADAPTER_FILES[1]).read_text()) == {"peft_type": "LORA"}


def test_tensors_that_share_memory_are_saved(tmp_path):
    """safetensors refuses views of one storage; heads may hold them."""
    whole = torch.randn(4, 6)
    RouterCheckpointIO().save_checkpoint({"state_dict": {"a": whole[:, :3], "b": whole[:, 3:]}}, tmp_path / "c")
    loaded = RouterCheckpointIO().load_checkpoint(tmp_path / "c")["state_dict"]
    assert torch.equal(loaded["a"], whole[:, :3])
    assert torch.equal(loaded["b"], whole[:, 3:])


@pytest.mark.parametrize("name", EVERY)
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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"sha256": {}}', '{"format": 3, "sha256": {}}'])
def test_a_spoilt_manifest_is_refused(saved, content):
    folder, _ = saved
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ModelError):
        RouterCheckpointIO().load_checkpoint(folder)


def as_first_format(folder, state):
    """Rewrite a checkpoint as the first format has it: a pickle of the state, and nothing of the adapter's hashes."""
    for name in (STATE, STATE_TENSORS):
        (folder / name).unlink()
    torch.save(state, folder / PICKLED)
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ROUTER, PICKLED, CONFIG)}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "sha256": hashes}))


def test_the_first_format_is_read(saved):
    folder, state = saved
    now = RouterCheckpointIO().load_checkpoint(folder)
    as_first_format(folder, {key: value for key, value in state.items() if key not in ("state_dict", "adapter")})
    before = RouterCheckpointIO().load_checkpoint(folder)
    assert same(before, now)


def test_foreign_code_never_runs(saved, capsys):
    """Even with a manifest that matches, only plain types are read; and what a manifest does not name is not read."""
    folder, _ = saved
    torch.save({"epoch": _Gadget()}, folder / PICKLED)
    assert RouterCheckpointIO().load_checkpoint(folder)["epoch"] == 3
    as_first_format(folder, {"epoch": _Gadget()})
    with pytest.raises(ModelError):
        RouterCheckpointIO().load_checkpoint(folder)
    assert "ran" not in capsys.readouterr().out


def same(one, other):
    """Return whether two states are equal: types of values and of keys, bits of numbers and tensors."""
    if isinstance(one, torch.Tensor):
        bits = [value.contiguous().flatten().view(torch.uint8) for value in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    if isinstance(one, dict):
        return [*one] == [*other] and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def test_every_plain_state_comes_back_as_it_was(tmp_path):
    shared = torch.randn(4, 6)
    state = {
        "words": {"a.b": shared[:, 3:], "a": {"b": shared[:, :3]}, "$tensor": "not one", "": None, "zürich": True},
        "numbers": [0, -1, 2**70, 0.1, 1e-320, -0.0, math.inf, -math.inf, math.nan],
        "pairs": {0: {"step": torch.tensor(3.0)}, 1: (), None: [(1, [2])], 0.5: "x", "0": torch.tensor(True)},
        "noise": [torch.get_rng_state(), random.getstate()],
        "kinds": {dtype: torch.zeros(2, 0, dtype=getattr(torch, dtype)) for dtype in ("int64", "bfloat16", "bool")},
        "transposed": shared.T,
    }
    save_state(state, tmp_path / "a", tmp_path / "b")
    json.loads((tmp_path / "a").read_text(), parse_constant=pytest.fail)
    assert same(load_state(tmp_path / "a", tmp_path / "b"), state)
    save_state({"one": np.float64(0.5), "more": OrderedDict(two=np.int64(2))}, tmp_path / "a", tmp_path / "b")
    assert same(load_state(tmp_path / "a", tmp_path / "b"), {"one": 0.5, "more": {"two": 2}})


@pytest.mark.parametrize("thing", [object(), np.zeros(2), {1, 2}, torch.float32, b"x"])
def test_what_is_not_plain_is_refused_when_it_is_saved_and_the_previous_checkpoint_stays(saved, thing):
    folder, state = saved
    with pytest.raises(ModelError, match=r"state\.callbacks\.Mine"):
        RouterCheckpointIO().save_checkpoint({**state, "callbacks": {"Mine": [thing]}}, folder)
    assert RouterCheckpointIO().load_checkpoint(folder)["epoch"] == 3
    assert {path.name for path in folder.parent.iterdir()} == {"last.ckpt", "last-1.ckpt"}


def test_removing_a_checkpoint_removes_its_folder(saved):
    folder, _ = saved
    RouterCheckpointIO().remove_checkpoint(folder)
    RouterCheckpointIO().remove_checkpoint(folder)
    assert not folder.exists()
