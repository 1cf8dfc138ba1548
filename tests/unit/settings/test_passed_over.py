"""Which arguments a configuration behind them passes over."""

import pytest

from moe_tune.settings.passed_over import passed_over

HEAD = "{model: {head: {class_path: moe_tune.heads.temperature.TemperatureHead, init_args: {tau: 0.5}}}}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.head.tau", "0.7", "--config", HEAD], ["--model.head.tau 0.7", "says 0.5"]),
        (["--model.head", "BiasHead", f"--config={HEAD}"], ["--model.head BiasHead", "TemperatureHead"]),
        (["--model.head", "TemperatureHead", "--config", HEAD], []),
        (["--model.head.tau=5e-1", "--config", HEAD], []),
        (["--model.head.tau", "-0.5", "--config", HEAD], ["--model.head.tau -0.5"]),
        (["--model.head.tau=0.7", "--config", HEAD, "--model.head.tau=0.7"], []),
        (["--fresh", "--config", "{fresh: false}"], ["--fresh true"]),
        (["--test_after_fit=true", "-c", "{test_after_fit: true}"], []),
        (["--seed_everything", "3", "--config", HEAD, "--config", "{seed_everything: 4}"], ["3", "says 4"]),
        (["--trainer.callbacks+=x.Y", "--config", HEAD], []),
    ],
)
def test_what_comes_last_counts(words, told):
    lines = passed_over(words)
    assert len(lines) == bool(told)
    assert all(part in lines[0] for part in told)
