"""Strategies that shard the model or start processes by pickling are refused in one line, on one device and on two."""

import pytest

from moe_tune.cli.main import main

STRATEGIES = ["fsdp", "deepspeed", "deepspeed_stage_2", "ddp_spawn", "lightning.pytorch.strategies.FSDPStrategy"]


@pytest.mark.parametrize("devices", ["1", "2"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_message_names_ddp(capsys, tmp_path, strategy, devices):
    words = ["--config", "configs/nano.yaml", "--config", "configs/trainer/cpu.yaml", "--runs_root", str(tmp_path)]
    assert main(["fit", *words, "--trainer.strategy", strategy, "--trainer.devices", devices]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moe_tune:")]
    assert strategy in line
    assert "--trainer.strategy ddp" in line
    assert not list(tmp_path.iterdir())
