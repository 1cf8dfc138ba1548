"""Weights are read from disk without mapping the files, and are the same."""

import os

import pytest
import torch
from transformers import modeling_utils

from moe_tune.models.base_model import BaseModel
from moe_tune.models.unmapped import ONE_BY_ONE, unmapped_files


@pytest.mark.parametrize("before", [None, "0"])
def test_files_are_read_and_not_mapped_while_it_is_open(monkeypatch, before):
    monkeypatch.delenv(ONE_BY_ONE, raising=False)
    if before is not None:
        monkeypatch.setenv(ONE_BY_ONE, before)
    told = []
    monkeypatch.setattr(modeling_utils, "safe_open", lambda file, **options: told.append(options["backend"]))
    opened = modeling_utils.safe_open
    with unmapped_files():
        modeling_utils.safe_open("weights", backend="mmap")
        assert os.environ[ONE_BY_ONE] == "1"
    assert told == ["pread"]
    assert modeling_utils.safe_open is opened
    assert os.environ.get(ONE_BY_ONE) == before


def test_a_model_is_opened_that_way_and_has_the_weights_it_was_saved_with(tmp_path, monkeypatch):
    told, opened = [], modeling_utils.safe_open

    def noted(*words, **options):
        told.append(options["backend"])
        return opened(*words, **options)

    model, _ = BaseModel("nano").load()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(modeling_utils, "safe_open", noted)
    again, _ = BaseModel(str(tmp_path)).load()
    assert told
    assert set(told) == {"pread"}
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
