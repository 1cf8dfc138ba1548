"""A LoRA through the whole program: trained instead of a head, kept in the checkpoint, evaluated again from it."""

import json

import pandas as pd
from safetensors.torch import load_file

from moe_tune.cli.main import main


def test_a_lora_is_trained_kept_and_read_again(fit, tmp_path, caplog):
    run = fit(tmp_path, "--config", "configs/peft/attention.yaml", "--optimizer.lr", "0.01")
    assert "answer path off (a LoRA changes every token)" in caplog.text
    checkpoint = run / "checkpoints" / "last.ckpt"
    kept = load_file(checkpoint / "router.safetensors")
    theirs = load_file(checkpoint / "adapter" / "adapter_model.safetensors")
    assert {f"adapter.{name}" for name in theirs} == set(kept)
    assert all(value.abs().max() > 0 for value in theirs.values())
    described = json.loads((checkpoint / "adapter" / "adapter_config.json").read_text())
    assert (described["peft_type"], described["r"], described["target_modules"]) == ("LORA", 8, ["q_proj", "v_proj"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["trainable_parameters"] == sum(value.numel() for value in theirs.values())
    before = pd.read_parquet(run / "questions" / "test.parquet")
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 0
    pd.testing.assert_frame_equal(before, pd.read_parquet(run / "questions" / "test.parquet"))
