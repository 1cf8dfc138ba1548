"""Base models load the same everywhere, and what is wrong with their files is said in one message."""

import errno
import json
import shutil

import pytest
import torch

from moe_tune.base.errors import ConfigError, ModelError, MoeTuneError
from moe_tune.models import base_model
from moe_tune.models.base_model import NANO, BaseModel

RANDOM = BaseModel(path="random", tokenizer=str(NANO / "tokenizer.json"), experts_implementation="eager")


@pytest.fixture
def folder(tmp_path):
    """Give a copy of the shipped model that may be spoilt."""
    return shutil.copytree(NANO, tmp_path / "model")


def test_random_weights_depend_on_neither_the_default_device_nor_the_state_of_the_generator():
    model, _ = RANDOM.load()
    torch.rand(7)
    state = torch.get_rng_state()
    with torch.device("meta"):
        again, _ = RANDOM.load()
    assert torch.equal(torch.get_rng_state(), state)
    wanted = model.state_dict()
    assert all(value.device.type == "cpu" and torch.equal(value, wanted[n]) for n, value in again.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(folder, share):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(ModelError, match="readable weights"):
        BaseModel(str(folder)).load()


def test_a_tokenizer_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.base\.tokenizer"):
        BaseModel(tokenizer=str(tmp_path / "x.json")).load_tokenizer()


@pytest.mark.parametrize("content", ["", '{"a":', '{"a": 1}', "[]"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_tokenizer_file_that_is_none(folder, content, beside):
    file = folder / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ModelError, match="readable tokenizer"):
        BaseModel(str(folder), tokenizer=None if beside else str(file)).load_tokenizer()


def test_olmoe_tokenizer_knows_its_special_tokens_also_elsewhere(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = BaseModel(path="random", tokenizer="olmo-eval").load_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert (one.eos_token_id, one.pad_token_id, len(one)) == (50279, 1, 50280)


def test_a_tokenizer_without_those_tokens_is_left_alone(tmp_path):
    content = json.loads((NANO / "tokenizer.json").read_text())
    names = [token["content"] for token in content["added_tokens"]]
    tokenizer = BaseModel(path="random", tokenizer=str(NANO / "tokenizer.json")).load_tokenizer()
    assert tokenizer.eos_token in (None, *names)
    assert len(tokenizer) == len(tokenizer.get_vocab())


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=["memory", "disk", "interrupt"],
)
def test_what_is_no_fault_of_the_files_passes(fault):
    with pytest.raises(type(fault)) as came, base_model._translated(BaseModel(), "weights"):
        raise fault
    assert came.value is fault
    assert not isinstance(came.value, MoeTuneError)
