"""Every shipped configuration parses, and the complete ones differ only where they may."""

from pathlib import Path

import pytest
import yaml

from moe_tune.base.strict_yaml import load_yaml
from moe_tune.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
COMPLETE = ["nano", "mmlu_offline", "olmoe_mmlu"]
OVERLAYS = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "sweep")  # check reads sweeps


def printed(capsys, *argv):
    with pytest.raises(SystemExit) as end:
        main(["fit", *argv, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_configs_parse(capsys, name):
    config = printed(capsys, "--config", str(CONFIGS / f"{name}.yaml"))
    assert config["model"]["base"] == {
        **config["model"]["base"],
        **load_yaml(CONFIGS / f"{name}.yaml")["model"]["base"],
    }


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_overlays_parse_and_say_nothing_the_base_says(capsys, overlay):
    config = printed(capsys, "--config", str(CONFIGS / "nano.yaml"), "--config", str(overlay))

    def agrees(wanted, came):
        if isinstance(wanted, dict):
            return all(agrees(value, came[key]) for key, value in wanted.items() if key != "class_path")
        if isinstance(wanted, list) and all(isinstance(one, dict) for one in wanted):
            return len(wanted) == len(came) and all(map(agrees, wanted, came))
        return wanted == came

    assert agrees(load_yaml(overlay), config)


def test_complete_configs_differ_only_in_base_and_data():
    contents = []
    for name in COMPLETE:
        content = load_yaml(CONFIGS / f"{name}.yaml")
        content.pop("data")
        content["model"].pop("base")
        contents.append(content)
    assert contents[0] == contents[1] == contents[2]


def test_a_printed_config_parses_to_itself(capsys, tmp_path):
    first = printed(capsys, "--config", str(CONFIGS / "nano.yaml"), "--model.head", "TemperatureHead")
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(first))
    assert printed(capsys, "--config", str(file)) == first


def test_arguments_win_over_files_and_later_files_over_earlier(capsys):
    overlay = str(CONFIGS / "head" / "temperature.yaml")
    base = str(CONFIGS / "nano.yaml")
    assert printed(capsys, "--config", base, "--config", overlay)["model"]["head"]["init_args"]["tau"] == 0.7
    config = printed(capsys, "--config", base, "--config", overlay, "--model.head.tau", "0.5")
    assert config["model"]["head"]["init_args"]["tau"] == 0.5


def test_a_stack_part_and_a_loss_are_addressed_by_name(capsys):
    config = printed(
        capsys,
        *("--config", str(CONFIGS / "nano.yaml"), "--config", str(CONFIGS / "head" / "retuned_temperature.yaml")),
        *("--model.head.parts.temperature.tau", "0.5", "--model.losses.z", "ZLoss", "--model.losses.z.weight", "1e-3"),
    )
    assert config["model"]["head"]["init_args"]["parts"]["temperature"]["init_args"]["tau"] == 0.5
    assert config["model"]["losses"]["z"]["init_args"]["weight"] == 0.001


def test_a_head_explains_its_options(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--model.head.help", "TemperatureHead"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 is the pretrained router" in text
    assert "Formula: p = softmax(z / tau), S = topK(z)." in text
    assert "Reference: Chernov 2025, https://arxiv.org/abs/2502.17187" in text
