"""What comes before parsing: which checkpoint counts, bare switches, the run's short name, and what changed."""

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from kept_state import KEPT

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.arguments import config_arguments, read_arguments
from moe_tune.settings.command import Command
from moe_tune.settings.config_files import config_label, differences


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    contents = {"one": {"ckpt_path": "one"}, "none": {"ckpt_path": None}, "silent": {"seed_everything": 3}}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


PIECES = [
    ("--config", "FILES/one.yaml"),
    ("--config=FILES/none.yaml",),
    ("--config", "FILES/silent.yaml"),
    ("-c", "{ckpt_path: inline}"),
    ('--config={"ckpt_path": null}',),
    ("--ckpt_path", "argument"),
    ("--ckpt_path=equals",),
    ("--ckpt_path", "null"),
    ("--seed_everything", "5"),
]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=5))
def test_the_checkpoint_is_the_one_jsonargparse_ends_with(files, pieces):
    words = [word.replace("FILES", str(files)) for piece in pieces for word in piece]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    parser.add_argument("--seed_everything", type=int, default=0)
    assert read_arguments(["fit", *words])[1] == parser.parse_args(words).ckpt_path


def test_a_checkpoints_configuration_comes_first(tmp_path):
    folder = tmp_path / "last.ckpt"
    RouterCheckpointIO(lambda: "seed_everything: 7\nmodel: {task_weight: 2.0}\nname: not taken\n").save_checkpoint(
        KEPT | {"state_dict": {"w": torch.zeros(1)}}, folder
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"ckpt_path: {folder}\n")
    argv = ["test", "--config", "configs/nano.yaml", "--config", str(overlay), "--seed_everything", "1"]
    settings = Command(argv).settings
    assert (settings.name, settings.seed_everything, settings.ckpt_path) == (None, 1, str(folder))
    assert Command([*argv, "--ckpt_path", "null"]).settings.name is None


def test_a_missing_checkpoint_named_in_a_file_is_refused(files):
    with pytest.raises(ModelError, match="'one'"):
        Command(["test", "--config", str(files / "one.yaml")])


@pytest.mark.parametrize("word", ["best", "last", "hpc", "registry:model"])
def test_lightnings_words_are_refused_with_a_hint(word):
    with pytest.raises(ConfigError, match=r"last\.ckpt"):
        read_arguments(["test", "--ckpt_path", word])
    with pytest.raises(ConfigError, match=word):
        read_arguments(["test", "--config", f"{{ckpt_path: '{word}'}}"])


@pytest.mark.parametrize("flag", ["--fresh", "--test_after_fit"])
def test_a_bare_switch_means_true_and_a_given_value_stands(flag):
    assert read_arguments(["fit", flag])[0] == ["fit", f"{flag}=true"]
    assert read_arguments(["fit", flag, "--name", "x"])[0] == ["fit", f"{flag}=true", "--name", "x"]
    for same in (["fit", flag, "true"], ["fit", flag, "False", "--name", "x"], ["fit", f"{flag}=false"]):
        assert read_arguments(same)[0] == same


@pytest.mark.parametrize("content", ["a: 1\na: 2\n", "- 1\n", "a: [\n", ""])
def test_a_file_that_is_no_mapping_with_each_key_once_is_refused(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_arguments(["fit", "--config", str(file)])


@pytest.mark.parametrize("inline", ["{a: 1, a: 2}", '{"a": '])
def test_a_written_out_configuration_is_read_as_strictly(inline):
    with pytest.raises(ConfigError, match="--config"):
        read_arguments(["fit", "--config", inline])


def test_the_arguments_of_config_are_found_in_order():
    argv = ["fit", "--config", "a.yaml", "-c", "b.yaml", "--config={c: 1}", "--name", "x"]
    assert config_arguments(argv) == ["a.yaml", "b.yaml", "{c: 1}"]


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([], "default"),
        (['{"seed_everything": 1}'], "default"),
        (["{}", "configs/nano.yaml", "configs/head/bias.yaml"], "nano"),
        (["runs/demo-retuned-all-RetunedHead-s0-5fb37491/config.yaml"], "demo-retuned-all"),
        (["runs/nano-IdentityHead-s12-5fb37491-test/config.yaml"], "nano"),
        (["runs/nano-IdentityHead-s12-5fb37491/checkpoints/last.ckpt/config.yaml"], "nano"),
        (["runs/nano-IdentityHead-s12-5fb37491/other.yaml"], "other"),
        (["elsewhere/config.yaml"], "config"),
    ],
)
def test_the_label_is_the_first_files_or_its_runs(values, label):
    assert config_label(["fit", *(word for value in values for word in ("--config", value))]) == label


def test_the_label_of_a_run_is_found_from_inside_it(tmp_path, monkeypatch):
    run = tmp_path / "nano-IdentityHead-s0-5fb37491"
    run.mkdir()
    monkeypatch.chdir(run)
    assert config_label(["fit", "--config", "config.yaml"]) == "nano"


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2))
CONFIGS = st.dictionaries(
    st.sampled_from("abc"), st.one_of(SCALARS, st.dictionaries(st.sampled_from("xy"), SCALARS, max_size=2)), max_size=3
)


@given(CONFIGS, CONFIGS)
def test_there_are_differences_exactly_if_the_configurations_differ(before, after):
    assert differences(before, before) == []
    forth, back = differences(before, after), differences(after, before)
    assert {line.partition(":")[0] for line in forth} == {line.partition(":")[0] for line in back}
    assert bool(forth) == (yaml.safe_dump(before) != yaml.safe_dump(after))


def test_a_difference_names_the_dotted_key_and_both_values():
    before = {"model": {"head": {"tau": 1.0, "parts": {}}, "scope": "answer"}, "layers": [0, 1]}
    after = {"model": {"head": {"tau": 0.5, "parts": {}}, "scope": "answer"}, "layers": [1], "name": None}
    assert differences(before, after) == [
        "model.head.tau: 1.0 -> 0.5",
        "layers: [0, 1] -> [1]",
        "name: (not set) -> null",
    ]


def test_a_seed_of_the_order_that_would_not_count_is_refused():
    for config in ("{data: {seed: 5}}", "{seed_everything: 0, data: {seed: 5}}"):
        with pytest.raises(ConfigError, match=r"seed_everything but got 5 \(data.seed.*seed_everything: 5"):
            read_arguments(["fit", "--config", config])
    agreeing = "{seed_everything: 5, data: {seed: 5}}"
    assert Command(["fit", "--config", "nano", "--config", agreeing, "--seed_everything=3"]).settings.data.seed == 3
