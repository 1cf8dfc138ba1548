"""Tiny run directories with the files of real ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

SUBJECTS = ["addition", "antonyms", "capitals", "even_number", "largest_of_four", "successor_letter"]


def write_run(
    path: Path, *, name="baseline", seed=1, gain=0.0, n=240, trainable=0, layers=4, experts=16, top_k=2,
    splits=("test", "test_nano_textbook"), item_seed=0, status="finished", config=None, **recorded,
):  # fmt: skip
    """Write one run; ``gain`` moves a share of the wrong answers to right (below 0: right to wrong)."""
    head = "IdentityHead" if trainable == 0 else "RetunedHead"
    path.mkdir(parents=True)
    config = {"model": {"head": {"class_path": head}}} if config is None else config
    (path / "config.yaml").write_text(yaml.safe_dump({"seed_everything": seed} | config))
    manifest = {
        "name": name, "head": head, "scope": "answer", "layers": list(range(layers)), "trainable_parameters": trainable,
        "seed": seed, "status": status, "base": {"path": "nano", "revision": "1"},
        "protocols": {split: "nano_textbook" if "textbook" in split else "nano_quiz" for split in splits}, **recorded,
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    for place, split in enumerate(splits):
        questions = _questions(n, item_seed + place, gain if place == 0 else -gain / 4, seed)
        routing = _routing(n, layers, experts, top_k, sharpness=0.6 + 6 * max(gain, 0) + 0.05 * seed * (gain != 0))
        for kind, table in (("questions", questions), ("routing", routing)):
            (path / kind).mkdir(exist_ok=True)
            table.to_parquet(path / kind / f"{split}.parquet")
    return path


def _questions(n, item_seed, gain, seed):
    items = np.random.default_rng(item_seed)
    gold = items.integers(0, 4, n)
    subject_Q = items.integers(0, len(SUBJECTS), n)
    right = items.random(n) < 0.3 + 0.08 * subject_Q
    # The change comes from the run's own seed; the questions and the baseline's answers do not.
    luck = np.random.default_rng([item_seed, seed, int(1000 * abs(gain))]).random(n)
    if gain != 0:
        up, down = 0.05 + max(gain, 0), 0.05 + max(-gain, 0)
        right = np.where(right, luck > down, luck < up)
    prediction = np.where(right, gold, (gold + 1) % 4)
    log_probs = np.full((n, 4), -3.0)
    log_probs[np.arange(n), prediction] = -0.16
    # Every tenth question repeats the content of the one before.
    content = [f"c{i - 1 if i % 10 == 9 else i:05d}" for i in range(n)]
    return pd.DataFrame({
        "id": [f"q{i:05d}" for i in range(n)], "content_hash": content, "subject": [SUBJECTS[i] for i in subject_Q],
        "gold": gold, "log_probs": list(log_probs), "prediction": prediction,
    })  # fmt: skip


def _routing(n, layers, experts, top_k, sharpness):
    rows = []
    for layer in range(layers):
        order = np.random.default_rng(layer).permutation(experts)
        share = np.exp(-sharpness * np.arange(experts) / 4)
        for _ in range(50):
            share = np.minimum(1, share * top_k / share.sum())
        count_E = np.round(n * share).astype(int)[order]
        for scope, tokens in (("answer", n), ("all", 20 * n)):
            came_E = count_E if scope == "answer" else np.full(experts, 5 * n)
            rows.append({
                "layer": layer, "scope": scope, "expert": range(experts), "count": came_E, "correct": came_E // 2,
                "weight_mass": came_E / top_k, "tokens": tokens, "entropy_all_std": 0.1, "entropy_topk_std": 0.05,
                "entropy_all_mean": 2.2 - 0.1 * layer - 0.2 * sharpness / 4,
                "entropy_topk_mean": 0.66 - 0.03 * layer - 0.02 * sharpness,
            })  # fmt: skip
    return pd.concat(map(pd.DataFrame, rows), ignore_index=True)
