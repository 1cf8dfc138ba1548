"""A LoRA through the whole program: trained instead of a head, kept in the checkpoint, evaluated again from it."""

import json

import pandas as pd
import torch
from safetensors.torch import load_file

from moe_tune import load_card
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


def test_a_lora_on_the_most_used_experts_leaves_the_others_alone(fit, tmp_path):
    run = fit(tmp_path, "--config", "configs/peft/expert_subset.yaml", "--optimizer.lr", "0.01")
    manifest = json.loads((run / "manifest.json").read_text())
    chosen = {int(layer): experts for layer, experts in manifest["lora_experts"].items()}
    assert {layer: len(experts) for layer, experts in chosen.items()} == dict.fromkeys(range(4), 16)
    assert len({str(experts) for experts in chosen.values()}) > 1
    assert manifest["calibration"]["questions"] == 64
    kept = load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")
    assert 4 * manifest["trainable_parameters"] == sum(value.numel() for value in kept.values())
    for name, value in kept.items():
        if "lora_B" in name:
            layer = int(name.split("layers.")[1].split(".")[0])
            change_E = value.reshape(len(value), -1, 64).abs().amax((0, 1))
            assert change_E.nonzero().flatten().tolist() == chosen[layer], name
    before = pd.read_parquet(run / "questions" / "test.parquet")
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    pd.testing.assert_frame_equal(before, pd.read_parquet(run / "questions" / "test.parquet"))
    assert main(["export", str(run), "--output", str(tmp_path / "card")]) == 0
    card = load_card(tmp_path / "card")
    assert card.adapter is not None
    assert all(torch.equal(value, kept[name]) for name, value in card.state().items())
