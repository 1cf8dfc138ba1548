"""Runs are named by what differs from the file, and found under every name they ever had."""

import pytest

from moe_tune.settings.config_files import config_label
from moe_tune.settings.run_name import LONGEST, said, standing


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("--config configs/nano.yaml --config configs/debug/tiny.yaml", ""),
        ("--trainer.max_epochs 1", "epochs1"),
        ("--trainer.max_epochs=1 --trainer.max_epochs=5", "epochs5"),
        ("--model.layers last-2 --model.head.tau=-0.5", "layers_last2-tau_minus0.5"),
        ("--model.losses.balance LoadBalanceLoss", "balance_LoadBalanceLoss"),
        ("--data.source.path /data/mine --optimizer=torch.optim.SGD", "path_mine-optimizer_SGD"),
        ("--model.head SteerHead --seed_everything 3 --runs_root elsewhere --test_after_fit false", ""),
        ("--trainer.logger=false --trainer.enable_progress_bar false --trainer.callbacks+=x.Y", ""),
        ("--data.test_protocols=[nano_textbook] --fresh", ""),
        ('--config={"model.head.tau":0.5}', "tau0.5"),
    ],
)
def test_what_a_command_says_beside_its_files(words, name):
    assert said(["fit", *words.split()]) == name


def test_many_words_make_no_long_name():
    words = [f"--model.head.option_{one}=value_of_some_length_{one}" for one in range(9)]
    assert 0 < len(said(["fit", *words])) <= LONGEST


@pytest.mark.parametrize(
    "there", ["nano-Head-s0-abcd1234", "nano-Head-lr3-s0-abcd1234", "nano-Head-lr3-epochs1-s0-abcd1234"]
)
def test_a_run_is_found_under_every_name_it_may_have(tmp_path, there):
    for name in (
        "nano-Head-s1-abcd1234",
        "nano-Head-s0-abcd1235",
        "nano-Head-s0-abcd1234-test",
        "mine-Head-s0-abcd1234",
    ):
        (tmp_path / name).mkdir()
    plain = tmp_path / "nano-Head-s0-abcd1234"
    for words, wanted in (("", "nano-Head-s0-abcd1234"), ("epochs1-lr3", "nano-Head-epochs1-lr3-s0-abcd1234")):
        assert standing(plain, "nano-Head", words).name == wanted
    (tmp_path / there).mkdir()
    for words in ("", "epochs1-lr3"):
        assert standing(plain, "nano-Head", words).name == there


@pytest.mark.parametrize("words", ["", "-epochs1", "-epochs1-lr.1", "-balance_LoadBalanceLoss"])
@pytest.mark.parametrize("label", ["nano", "my-own", "My-Quiz"])
@pytest.mark.parametrize("verb", ["", "-test"])
def test_a_saved_configuration_gives_the_name_it_was_made_under(label, words, verb):
    assert config_label(["fit", "--config", f"runs/{label}-RetunedHead{words}-s0-12fce04f{verb}/config.yaml"]) == label
