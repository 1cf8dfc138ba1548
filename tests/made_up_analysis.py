"""A made-up analysis with every column of the contract, at any size."""

import numpy as np
import pandas as pd

from moe_tune.analysis.findings import Analysis

CHANGES = ["white space", "choice order", "few-shot order", "typos", "synonyms"]
CLAIMS = [
    ("Most experts never fire", "At least half of a layer's experts are chosen by no counted token, mean over layers."),
    ("The gate is near-uniform", "Entropy over the chosen experts is at least 95 % of its maximum, mean over layers."),
    ("Its entropy rises from early to late layers", "Spearman correlation of entropy and layer, p < 0.05."),
    ("Experts of a layer differ in accuracy", "Spread beyond the permutation null in at least half of the layers."),
]
VERDICTS = ["holds", "does not hold", "inconclusive"]


def made_up_analysis(
    layers=4, experts=16, top_k=4, subjects=6, questions=600, shots=(0, 5), scopes=("answer", "all", "stem"), seed=0
):
    """Return an analysis whose figures hang together: usage is count / tokens, intervals hold their estimate."""
    rng = np.random.default_rng(seed)
    names = [f"subject_{place:02d}" for place in range(subjects)]
    frames = {name: [] for name in ("experts", "layers", "weights", "subjects", "co_activation", "sensitivity")}
    frames |= {"committees": [], "regret": []}
    claims = []
    for shot in shots:
        for scope in scopes:
            lead = {"shots": shot, "scope": scope}
            tokens = questions if scope == "answer" else 40 * questions
            for layer in range(layers):
                one = _experts(rng, experts, top_k, questions, tokens, scope, names)
                frames["experts"].append(pd.DataFrame({**lead, "layer": layer, **one}))
                row = _layer(rng, layer, layers, one, questions, tokens, top_k)
                frames["layers"].append(pd.DataFrame([{**lead, **row}]))
                weights = np.sort(rng.dirichlet(np.full(top_k, 9.0)))[::-1] * 0.4
                means = {"weight_mean": weights, "share_mean": weights / weights.sum()}
                frames["weights"].append(
                    pd.DataFrame({**lead, "layer": layer, "rank": np.arange(1, top_k + 1), **means})
                )
                frames["subjects"].append(pd.DataFrame({**lead, **_subjects(names, layer, questions, experts, top_k)}))
                if scope == "answer":
                    frames["co_activation"].append(pd.DataFrame({**lead, **_pairs(rng, layer, experts, questions)}))
            if scope == "answer":
                frames["sensitivity"].append(_sensitivity(lead, layers))
                frames["committees"].append(pd.DataFrame({**lead, **_committees(layers, questions, subjects)}))
                frames["regret"].append(pd.DataFrame({**lead, **_regret(layers)}))
            for place, (claim, definition) in enumerate(CLAIMS):
                ours = f"62.5 % of experts, n = {questions:,} questions [60.1, 64.8]"
                quoted = "62.1 % (OLMoE, MMLU)" if place < 3 else ""
                verdict = VERDICTS[(place + len(scope) + shot) % 3]
                told = {"definition": definition, "ours": ours, "quoted": quoted, "verdict": verdict}
                claims.append({"claim": claim, **lead, **told})
    about = {
        "model": "made-up", "revision": "0", "head": "IdentityHead", "split": "test", "protocol": "nano_quiz",
        "questions": questions, "accuracy": {str(shot): "54.2 % [52.6, 55.7]" for shot in shots}, "seed": seed,
        "date": "2026-11-22", "seconds": 12.5, "peak_memory": "0.9 GiB", "versions": {"torch": "2.13", "numpy": "2.4"},
    }  # fmt: skip
    return Analysis(
        title="Routing of a made-up model",
        lead=f"Every table of the contract at {len(shots) * len(scopes)} settings, drawn at random.",
        about=about,
        claims=claims,
        notes=["Intervals of accuracy treat questions as independent."],
        **{name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()},
    )


def _experts(rng, experts, top_k, questions, tokens, scope, names):
    appeal = rng.pareto(1.2, experts) * (rng.random(experts) < (0.5 if scope == "answer" else 1.0))
    appeal[:top_k] += 0.5
    usage = np.minimum(1, top_k * appeal / appeal.sum())
    count = np.round(usage * tokens).astype(int)
    asked = np.minimum(questions, count)
    correct = rng.binomial(asked, 0.54)
    with np.errstate(invalid="ignore"):
        accuracy = correct / asked
    half = 1 / np.sqrt(asked + 4)
    shrunk = (correct + 0.54 * 80) / (asked + 80)
    flagged = (np.arange(experts) == 1) & (asked > 0)
    return {
        "expert": np.arange(experts), "count": count, "tokens": tokens, "usage": count / tokens,
        "weight_mass": count * 0.05, "questions": asked, "correct": correct, "accuracy": accuracy,
        "accuracy_low": np.clip(accuracy - half, 0, 1), "accuracy_high": np.clip(accuracy + half, 0, 1),
        "shrunk": shrunk, "shrunk_low": shrunk - half / 2, "shrunk_high": shrunk + half / 2, "mass_accuracy": accuracy,
        "odds_ratio": np.where(asked > 0, 1.1, np.nan), "odds_low": np.where(asked > 0, 0.8, np.nan),
        "odds_high": np.where(asked > 0, 1.5, np.nan), "risk_difference": 0.01, "subject_gap": accuracy - 0.54,
        "p_null": 0.4, "p_adjusted": np.where(flagged, 0.004, 1.0), "flagged": flagged,
        "top_subject": [names[place % len(names)] for place in range(experts)], "top_subject_lift": 2.5,
        "evidence": "associational",
    }  # fmt: skip


def _layer(rng, layer, layers, one, questions, tokens, top_k):
    experts = len(one["expert"])
    all_mean = np.log(experts) * (0.7 + 0.2 * layer / layers)
    chosen_mean = np.log(top_k) * (0.94 + 0.04 * layer / layers)
    return {
        "layer": layer, "tokens": tokens, "questions": questions, "activated": int((one["count"] > 0).sum()),
        "activated_tenth": int((one["usage"] >= 0.1 / experts).sum()), "never_share": float((one["count"] == 0).mean()),
        "never_bound_one": 1 - 0.05 ** (1 / questions), "never_bound_all": 1 - (0.05 / 1024) ** (1 / questions),
        "effective_experts": 0.6 * experts, "load_max_over_mean": 3.1, "load_cv": 1.2, "load_gini": 0.61,
        "entropy_all_mean": all_mean, "entropy_all_std": 0.11, "entropy_all_share": all_mean / np.log(experts),
        "entropy_topk_mean": chosen_mean, "entropy_topk_std": 0.02 + 0.01 * rng.random(),
        "entropy_topk_share": chosen_mean / np.log(top_k), "topk_mass_mean": 0.4, "margin_mean": 0.0021,
        "tie_rate": 0.0, "near_tie_rate": 0.012, "base_overlap": 1.0, "base_kl": 0.0, "accuracy_lowest": 0.41,
        "accuracy_highest": 0.66, "accuracy_spread": 0.25, "spread_null_median": 0.22, "spread_null_high": 0.31,
        "spread_p": 0.2, "spread_p_holm": 0.8, "subject_information": 0.05,
    }  # fmt: skip


def _subjects(names, layer, questions, experts, top_k):
    place = np.arange(len(names))
    asked = np.full(len(names), questions // len(names)) + 7 * place
    accuracy = 0.4 + 0.3 * place / len(names)
    correct = np.round(asked * accuracy).astype(int)
    return {
        "subject": names, "layer": layer, "questions": asked, "correct": correct, "accuracy": correct / asked,
        "accuracy_low": correct / asked - 0.05, "accuracy_high": correct / asked + 0.05,
        "activated": top_k + place % 5, "top_expert": (place + layer) % experts,
        "top_expert_share": 0.2, "divergence": 0.02 * (1 + place + layer),
    }  # fmt: skip


def _pairs(rng, layer, experts, questions, pairs=50):
    expert = rng.integers(0, experts, pairs)
    return {
        "layer": layer, "expert": expert, "other": (expert + 1) % experts,
        "count": np.sort(rng.integers(1, questions, pairs))[::-1], "conditional": 0.3, "lift": 1.7,
    }  # fmt: skip


def _committees(layers, questions, subjects):
    place = np.arange(layers)
    return {
        "layer": place, "questions": questions, "subjects": subjects,
        "members": np.where(place > 0, "3 1", "none"), "size": np.where(place > 0, 2, 0),
        "coverage": np.where(place > 0, 0.3, 0.0), "coverage_null_high": 0.05, "p": np.where(place > 0, 0.001, 1.0),
        "p_holm": np.where(place > 0, 0.004, 1.0), "claimed": place > 0, "overlap": 0.4, "overlap_alike_low": 0.7,
        "overlap_alike_high": 0.9, "evidence": "associational",
    }  # fmt: skip


def _regret(layers):
    return {
        "layer": layers - 1, "confidence": ["all", "1", "2", "3", "4", "5"], "questions": [256, *[51] * 5],
        "better": 0.52, "low": 0.48, "high": 0.56, "better_null": 0.53, "p": 0.7, "gap": 0.04, "gap_low": -0.01,
        "gap_high": 0.09, "rank": -0.03, "rank_low": -0.1, "rank_high": 0.04, "best": 0.3, "best_null": 0.5,
        "verdict": "inconclusive", "evidence": "interventional",
    }  # fmt: skip


def _sensitivity(lead, layers):
    rows = []
    for place, change in enumerate(CHANGES):
        share = 0.03 + 0.05 * place
        for layer in range(-1, layers):
            routed = {"changed_share": share, "changed_low": share - 0.01, "changed_high": share + 0.01}
            letters = {"flipped_share": share / 2, "flipped_low": share / 3, "flipped_high": share}
            extra = letters if layer < 0 else {**routed, "any_changed_share": min(1, 3 * share)}
            rows.append({**lead, "change": change, "layer": layer, "questions": 256, **extra})
    return pd.DataFrame(rows)
