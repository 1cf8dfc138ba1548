"""The values that small fits, an analysis and a comparison give, and how they are written again.

    python tests/golden/golden_values.py --write

Every fit takes eight steps of plain gradient descent, since an optimiser that divides by its own gradients enlarges
what another processor rounds otherwise. The values were written by cfcf61f; write them again only with a defect that is
mended and changes them on purpose, and say so in its commit.
"""

import importlib
import importlib.metadata
import json
import math
import os
import sys
from functools import cache
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

FILE = Path(__file__).with_name("values.json")
SHARE = 16
"""Of each tensor about so many values are kept, evenly spaced, and its norm."""
TOLERANCE = 1e-4
TIE = 1e-3
"""A letter counts if no other is as near as this, in log-probability."""
CONFIGS = ("configs/nano.yaml", "configs/logger/none.yaml")
COMMON = [
    *(word for file in CONFIGS for word in ("--config", file)),
    *("--data.source.train=128", "--data.source.validation=64", "--data.source.test=64"),
    *("--data.batch_size=16", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"),
    *("--model.base.experts_implementation=grouped_mm", "--trainer.enable_progress_bar=false"),
    *("--optimizer=torch.optim.SGD", "--optimizer.lr=0.3"),
]
UNTESTED = ["--trainer.limit_val_batches=0", "--test_after_fit=false"]
FITS = {
    "answer": [],
    "calibrated": [
        *("--config", "configs/head/accuracy_bias.yaml", "--model.head.n_min=2"),
        *("--model.head.shrinkage=10", "--model.head.beta=1"),
    ],
    "full": ["--model.answer_path.use=never", "--model.scope=all", "--optimizer.lr=0.05", *UNTESTED],
    "trunk": ["--model.answer_path.use=trunk", "--model.scope=all", "--model.layers=last-2", *UNTESTED],
    "stack": [
        *("--config", "configs/head/stack.yaml", "--data.few_shot=2", "--model.layers=last-3"),
        *("--model.head.parts.accuracy_bias.n_min=2", "--model.head.parts.accuracy_bias.shrinkage=10", *UNTESTED),
    ],
    "lora": ["--config", "configs/peft/attention.yaml", *UNTESTED],
    "loss_answer": [
        *("--model.losses.balance=LoadBalanceLoss", "--model.losses.balance.weight=0.1"),
        *("--model.losses.distil=RouterDistillationLoss", "--model.losses.distil.weight=0.1"),
        *("--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=2", *UNTESTED),
    ],
    "loss_all": ["--config", "configs/losses/balance_z.yaml", "--model.losses.z.scope=all", *UNTESTED],
}
"""Arguments by case; those of ``answer`` and ``calibrated`` are tested, too, and compared."""
LAYER_FIGURES = (
    *("tokens", "activated", "effective_experts", "entropy_all_mean", "entropy_topk_mean", "topk_mass_mean"),
    *("margin_mean", "base_kl", "base_overlap", "accuracy_spread", "spread_null_median", "spread_p"),
)
ANALYSIS = [
    *("--split", "validation", "--shots", "0", "--scopes", "answer", "all"),
    *("--sensitivity", "0", "--draws", "100"),
]


class Runs:
    """Runs each case once in this process, when it is first asked for.

    Args:
        root: Folder of the runs.
    """

    def __init__(self, root):
        self.root = root
        self.run = cache(self._run)

    def _run(self, case):
        """Return the run directory of a case."""
        do(["fit", *COMMON, *FITS[case], "--name", case, "--runs_root", str(self.root)])
        (run,) = self.root.glob(f"{case}-*-s0-*")
        if not (run / "questions" / "test.parquet").is_file():
            do(["predict", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
        return run

    def values(self, case):
        """Return what is kept of a fit: losses by step, tensors, and every question's letters."""
        run = self.run(case)
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [{key: line[key] for key in line if key.startswith("train/loss")} for line in history]
        tested = run / "questions" / "test.parquet"
        return {
            "losses": [step for step in steps if step],
            "tensors": tensors(run / "checkpoints" / "last.ckpt"),
            "letters": letters(tested if tested.is_file() else run / "predictions.parquet"),
        }

    def analysis(self):
        out = self.root / "analysis"
        do(["analyze", str(self.run("answer")), *ANALYSIS, "--out", str(out)])
        return analysis_figures(out)

    def comparison(self):
        out = self.root / "comparison"
        do(["compare", str(self.run("answer")), str(self.run("calibrated")), "--out", str(out)])
        return comparison_figures(out)

    def of(self, name):
        """Return what is kept under a name: of a case, or ``analyze`` or ``compare``."""
        return rounded({"analyze": self.analysis, "compare": self.comparison}.get(name, lambda: self.values(name))())


NAMES = (*FITS, "analyze", "compare")


def installed(library):
    """Return the version of a library, without the word for its build."""
    return importlib.metadata.version(library).partition("+")[0]


def do(words):
    # Where the command line lies differs between the commits that are compared; the program that starts it does not.
    code = importlib.import_module("moe_tune.__main__").entry.__globals__["main"](words)
    assert code == 0, (code, words)


def analysis_figures(folder):
    """Return the key figures of an analysis, by scope and layer, and the verdicts."""
    table = pd.read_csv(folder / "layers.csv")
    claims = json.loads((folder / "summary.json").read_text())["claims"]
    return {
        "layers": table[["scope", "layer", *LAYER_FIGURES]].to_dict("records"),
        "claims": {f"{one['claim']}, {one['scope']}": one["verdict"] for one in claims},
    }


LATER = {
    "ci90", "p_equivalence", "test", "detectable", "routed_elsewhere", "ece", "brier", "loss", "recall_spread",
}  # fmt: skip
"""Figures of a comparison that came later."""


def comparison_figures(folder):
    """Return the figures of a comparison that it has always had, without the names of the runs."""
    summary = json.loads((folder / "summary.json").read_text())
    arms = {}
    for name, arm in summary["arms"].items():
        splits = {split: {key: one[key] for key in one.keys() - LATER} for split, one in arm["splits"].items()}
        arms[name] = {key: arm[key] for key in ("decision", "trainable_parameters")} | {"splits": splits}
    return {"verdict": summary["verdict"], "arms": arms}


def sampled(tensor):
    """Return a tensor's shape and norm, and some of its values."""
    flat = tensor.double().flatten()
    return {
        "shape": list(tensor.shape),
        "norm": float(flat.norm()),
        "values": flat[:: max(1, len(flat) // SHARE)].tolist(),
    }


def tensors(checkpoint):
    """Return a sample of every tensor of a checkpoint."""
    return {name: sampled(one) for name, one in sorted(load_file(checkpoint / "router.safetensors").items())}


def letters(file):
    """Return the log-probabilities of the letters, by the question's id."""
    frame = pd.read_parquet(file)
    rows = zip(frame["id"], frame["log_probs"], strict=True)
    return {key: [float(value) for value in values] for key, values in rows}


def margin(log_probs):
    """Return how far the best letter is from the next."""
    best, second = sorted(log_probs)[-1:-3:-1]
    return best - second


def differences(wanted, came, place=""):
    """Yield where two nested values differ: numbers by more than the tolerance, anything else at all."""
    if isinstance(wanted, dict):
        assert isinstance(came, dict), place
        for key in wanted.keys() | came.keys():
            if key in wanted and key in came:
                yield from differences(wanted[key], came[key], f"{place}/{key}")
            else:
                yield f"{place}/{key} is only in one of them"
    elif isinstance(wanted, list):
        assert len(wanted) == len(came), place
        for index, (one, other) in enumerate(zip(wanted, came, strict=True)):
            yield from differences(one, other, f"{place}/{index}")
    elif isinstance(wanted, float) and isinstance(came, float):
        if not math.isclose(wanted, came, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{place}: {wanted} -> {came}"
    elif wanted != came:
        yield f"{place}: {wanted} -> {came}"


def rounded(value):
    """Return nested values as JSON holds them: numbers to eight digits, what is none as ``None``."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    return value


def write():
    """Write the values of this checkout."""
    import tempfile

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        os.environ["XDG_CACHE_HOME"] = folder
        runs = Runs(Path(folder) / "runs")
        values = {name: runs.of(name) for name in NAMES}
    # What is compared must not hang on a letter that another processor could choose otherwise.
    for name in ("answer", "calibrated"):
        near = [key for key, one in values[name]["letters"].items() if margin(one) < TIE]
        assert not near, f"{name}: {len(near)} letters are too near to a tie to be compared"
    FILE.write_text(json.dumps(values, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    os.chdir(Path(__file__).parents[2])  # where configs/ is
    sys.path.insert(0, ".")
    write()
