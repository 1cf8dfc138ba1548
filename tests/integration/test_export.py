"""Runs taken elsewhere: a card on the same model in another process, a fold that transformers alone loads, the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_uploads import UploadHub
from safetensors.torch import load_file, save_file

from moe_tune import BaseModel, load_card, load_head
from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.cli.main import main
from moe_tune.models.base_model import NANO
from moe_tune.runs.directory import RunDirectory

ROOT = Path(__file__).parents[2]
QUICK = ["--optimizer.lr", "0.03"]
TEMPERED = json.dumps(
    {
        "class_path": "Stack",
        "init_args": {
            "parts": {
                "weight": {"class_path": "LowRankHead"},
                "temperature": {"class_path": "TemperatureHead", "init_args": {"tau": 0.6, "mass": "raw"}},
            }
        },
    }
)
ON_A_CARD = """
import sys, torch
from moe_tune import load_card
gated = load_card(*sys.argv[3:])
with torch.no_grad():
    torch.save(gated(torch.load(sys.argv[1])), sys.argv[2])
"""
WITHOUT_THIS_PACKAGE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
asked = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(asked["folder"], dtype=asked["dtype"]).eval()
with torch.no_grad():
    logits = [model(torch.tensor([one])).logits[0, -1].float() for one in asked["prompts"]]
assert not any(name.startswith("moe_tune") for name in sys.modules)
print(json.dumps([one[asked["letters"]].tolist() for one in logits]))
"""
TOKENS_BS = torch.randint(3, 300, (4, 12), generator=torch.Generator().manual_seed(0))


def in_a_process(program, *words, cwd=ROOT, **environ):
    """Run a program elsewhere, with nothing of this process but the package."""
    places = {"PYTHONPATH": str(ROOT)} | environ
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | places,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def logits_of(gated):
    with torch.no_grad():
        return gated(TOKENS_BS)


@pytest.fixture(scope="module")
def run(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("answer"), *QUICK)


@pytest.fixture(scope="module")
def tempered(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("all"), *QUICK, "--model.scope", "all", f"--model.head={TEMPERED}")


@pytest.fixture(scope="module")
def card(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("cards") / "card"
    assert main(["export", str(run), "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_a_card_on_the_same_model_elsewhere_has_the_same_bits(run, card, tmp_path):
    moved = shutil.copytree(card, tmp_path / "far" / "away")
    base = shutil.copytree(NANO, tmp_path / "nano")
    torch.save(TOKENS_BS, tmp_path / "tokens")
    wanted = logits_of(load_head(run))
    for given in ([], [base]):
        in_a_process(ON_A_CARD, tmp_path / "tokens", tmp_path / "logits", moved, *given, cwd=tmp_path)
        assert torch.equal(torch.load(tmp_path / "logits"), wanted)
    gated = load_card(moved, BaseModel())
    with gated.session(base_only=True):
        assert not torch.equal(logits_of(gated), wanted)


def test_the_card_says_what_the_run_recorded_and_nothing_of_this_machine(run, card):
    told = json.loads((card / "card.json").read_text(encoding="utf-8"))
    manifest = RunDirectory(run).manifest
    assert told["base"]["fingerprint"] == manifest["base"]["frozen_sha256"]
    assert (told["layers"], told["scope"]) == (manifest["layers"], "answer")
    assert {one["split"]: one["n"] for one in told["metrics"]} == dict.fromkeys(manifest["protocols"], 64)
    assert all(one["ci95"][0] <= one["difference"] <= one["ci95"][1] for one in told["metrics"])
    text = "".join(file.read_text(encoding="utf-8") for file in card.iterdir() if file.suffix != ".safetensors")
    assert str(run.parent) not in text
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


def test_a_card_has_the_bits_of_its_run(run, card):
    assert torch.equal(logits_of(load_card(card)), logits_of(load_head(run)))


def test_another_base_model_and_a_changed_card_are_refused(card, tmp_path, capsys):
    other = shutil.copytree(NANO, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="expected the base model of the card, nano in float32, fingerprint"):
        load_card(card, str(other))
    with pytest.raises(ModelError, match="but got nano in bfloat16"):
        load_card(card, BaseModel(dtype="bfloat16"))
    changed = shutil.copytree(card, tmp_path / "changed")
    with (changed / "README.md").open("a", encoding="utf-8") as file:
        file.write("And it is much better.\n")
    with pytest.raises(ModelError, match=r"README\.md was changed"):
        load_card(changed)
    assert main(["export", "--diff", str(card), str(changed)]) == 4
    assert "README.md was changed" in capsys.readouterr().err


def test_a_lora_goes_with_the_card(fit, tmp_path):
    run = fit(tmp_path / "runs", *QUICK, "--config", "configs/peft/attention.yaml", "--test_after_fit", "false")
    assert main(["export", str(run), "--output", str(tmp_path / "card")]) == 0
    assert torch.equal(logits_of(load_card(tmp_path / "card")), logits_of(load_head(run)))
    assert main(["export", str(run), "--fold", "--output", str(tmp_path / "folded")]) == 2
    assert not (tmp_path / "folded").exists()


@pytest.mark.slow
def test_a_head_of_ones_own_needs_its_file(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## My own head in one file")[1]
    (tmp_path / "gain.py").write_text(readme.split("```python\n")[1].split("```")[0], encoding="utf-8")
    program = """
import json, sys
from moe_tune.cli.main import main
plugin = ["--plugins", "gain.py"]
words = json.loads(sys.argv[1])
assert main([*plugin, "fit", *words, "--model.head", "GainHead", "--runs_root", "runs"]) == 0
run = next(str(one) for one in __import__("pathlib").Path("runs").iterdir() if one.is_dir())
assert main([*plugin, "export", run, "--output", "card"]) == 0
from moe_tune import load_card, load_head
import torch
tokens = torch.tensor([[5, 6, 7]])
with torch.no_grad():
    assert torch.equal(load_card("card")(tokens), load_head(run)(tokens))
"""
    configs = [str(ROOT / "configs" / name) for name in ("nano.yaml", "debug/tiny.yaml", "logger/none.yaml")]
    words = [word for one in configs for word in ("--config", one)]
    in_a_process(program, json.dumps([*words, "--test_after_fit", "false"]), cwd=tmp_path)
    with pytest.raises(ConfigError, match=r"the card names moe_tune_plugin_gain\.GainHead") as refusal:
        load_card(tmp_path / "card")
    assert "load_plugin_file('gain.py')" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_folded_run_answers_the_same_without_this_package(tempered, tmp_path, capsys):
    folder = tmp_path / "folded"
    assert main(["export", str(tempered), "--fold", "--output", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "all 807 tensors read back" in said
    told = json.loads((folder / "folded.json").read_text(encoding="utf-8"))
    steps = told["effect"]
    assert [one["n"] for one in steps] == [64] * 5
    assert steps[2]["changed"] == 0
    base, mine = load_file(NANO / "model.safetensors"), load_file(folder / "model.safetensors")
    assert base.keys() == mine.keys()
    other = sorted(name for name, value in base.items() if not torch.equal(mine[name], value))
    assert other == [f"model.layers.{layer}.mlp.gate.weight" for layer in told["layers"]]
    for file in NANO.iterdir():
        if file.suffix == ".json":
            assert (folder / file.name).read_bytes() == file.read_bytes()
    quiz, letters = validation_of(tempered)
    for dtype, numerics, most in (("float32", "float32", 0), ("bfloat16", "native", steps[4]["changed"])):
        asked = {"folder": str(folder), "dtype": dtype, "prompts": quiz, "letters": letters}
        came = np.array(json.loads(in_a_process(WITHOUT_THIS_PACKAGE, json.dumps(asked), cwd=tmp_path)))
        wanted = letters_of(tempered, quiz, letters, dtype, numerics)
        assert int((came.argmax(-1) != wanted.argmax(-1)).sum()) <= most
        if dtype == "float32":
            np.testing.assert_allclose(came, wanted, atol=1e-4)


def test_what_folding_does_to_a_head_of_the_answer_token_is_said(run, tmp_path, capsys):
    words = ["export", str(run), "--fold", "--questions", "24", "--output", str(tmp_path / "folded")]
    assert main(words) == 0
    assert "n = 24" in capsys.readouterr().out
    steps = json.loads((tmp_path / "folded" / "folded.json").read_text(encoding="utf-8"))["effect"]
    assert [one["way"] for one in steps[:3]] == [
        "head at scope answer, routing in float32",
        "head at every token, native numerics",
        "folded, float32",
    ]
    assert steps[1]["against"] == 1
    assert steps[2]["changed"] == 0
    assert main([*words[:3], "--questions", "0", *words[5:]]) == 0
    assert "was not measured" in (tmp_path / "folded" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_folded_leaves_nothing(fit, tmp_path, capsys):
    run = fit(tmp_path / "runs", "--model.head", "TemperatureHead", "--model.head.tau", "0.5")
    assert main(["export", str(run), "--fold", "--output", str(tmp_path / "folded")]) == 2
    assert "TemperatureHead: mass: preserved rescales" in capsys.readouterr().err
    assert not (tmp_path / "folded").exists()


def test_a_head_with_settings_by_layer_comes_back(fit, tmp_path, capsys):
    head = ["--model.head", "FixedKHead", "--model.head.k={0: 3, 2: 12}"]
    run = fit(tmp_path / "runs", *head, "--test_after_fit", "false")
    assert main(["export", str(run), "--output", str(tmp_path / "card")]) == 0
    assert torch.equal(logits_of(load_card(tmp_path / "card")), logits_of(load_head(run)))
    capsys.readouterr()
    assert main(["export", "--diff", str(run), str(tmp_path / "card")]) == 0
    assert "identical" in capsys.readouterr().out


def test_a_mean_of_runs_folds_and_has_no_card(run, fit, tmp_path, capsys):
    head = ["--model.head", "MeanOfRuns", f"--model.head.runs={json.dumps([str(run)])}"]
    mean = fit(tmp_path / "runs", *head, "--test_after_fit", "false")
    assert main(["export", str(mean), "--output", str(tmp_path / "card")]) == 2
    said = capsys.readouterr().err
    assert "a head whose tensors are all there is to it but got 'moe_tune.heads.mean_of_runs.MeanOfRuns'" in said
    assert not (tmp_path / "card").exists()
    words = ["export", str(mean), "--fold", "--questions", "0", "--output", str(tmp_path / "folded")]
    assert main(words) == 0
    told = (tmp_path / "folded" / "folded.json").read_text(encoding="utf-8")
    assert run.name in told
    assert str(run.parent) not in told


def test_two_cards_are_told_apart(run, tempered, card, capsys):
    assert main(["export", "--diff", str(card), str(run)]) == 0
    assert "identical" in capsys.readouterr().out
    assert main(["export", "--diff", str(card), str(tempered)]) == 0
    said = capsys.readouterr().out
    assert "settings that differ" in said
    assert "tensors that differ" in said


def test_a_folder_of_something_else_is_not_written_over(run, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert main(["export", str(run), "--output", str(tmp_path)]) == 2
    assert "a folder that is new or empty" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


@pytest.mark.slow
def test_a_card_goes_to_the_hub_and_comes_back(run, tmp_path):
    send = "import sys; from moe_tune.cli.main import main; sys.exit(main(sys.argv[1:]))"
    clear = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"), "")
    with UploadHub() as hub:
        environ = clear | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        environ |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hub.token, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        words = ["export", run, "--output", tmp_path / "card", "--push", "me/router", "--private"]
        said = in_a_process(send, *words, **environ)
        commit = hub.repositories["me/router"].branches["main"]
        assert f"uploaded to me/router at {commit}" in said
        assert hub.private == {"me/router"}
        torch.save(TOKENS_BS, tmp_path / "tokens")
        program = ON_A_CARD.replace("*sys.argv[3:]", "sys.argv[3], revision=sys.argv[4]")
        in_a_process(program, tmp_path / "tokens", tmp_path / "logits", "me/router", commit, cwd=tmp_path, **environ)
        assert hub.unknown == []
    assert torch.equal(torch.load(tmp_path / "logits"), logits_of(load_head(run)))


def validation_of(run):
    """Return the token ids of a run's validation prompts, and the letters' tokens."""
    from moe_tune.settings.fit_settings import FitSettings

    read = FitSettings(["--config", str(run / "checkpoints" / "best.ckpt" / "config.yaml")])
    base = read.model.base
    read.datamodule.prepare(base.load_tokenizer(), int(base.load_config().max_position_embeddings))
    prompts = [one.ids_S.tolist() for one in read.datamodule.encoded("validation").prompts]
    return prompts, read.datamodule.letter_token_ids("validation")


def letters_of(run, prompts, letters, dtype, numerics):
    """Return the letters' logits of the head at every token, in a dtype and numerics."""
    from moe_tune.gates.gated_model import GatedModel

    trained = load_head(run)
    head, state = next(iter(trained.heads.values())), trained.state()
    prototype = type(head)(dict(head.parts.items()))
    gated = GatedModel(*BaseModel(dtype=dtype).load(), prototype, trained.layers, "all", numerics)
    gated.load_state(state, "test")
    gated.train(False)
    with torch.no_grad():
        return np.array([gated(torch.tensor([one]))[0, letters].float().tolist() for one in prompts])
