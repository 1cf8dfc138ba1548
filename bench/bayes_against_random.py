"""Whether bayes finds a better head than random search with the same number of points, on nano, over seeds.

    python bench/bayes_against_random.py --runs_root runs

The head is a stack with nothing to train, so that a point is one pass over the validation questions. Interrupted, the
same command goes on. The last line is ``bayes_gain <mean difference of the best metric>``, above 0 where bayes is
better.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from bench.smoke import parsed, smoking
from moe_tune.studies.sweep_file import load_sweep, sweep_folder
from moe_tune.studies.sweep_runner import run_point, run_sweep

HEAD = {
    "class_path": "Stack",
    "init_args": {
        "parts": {
            "accuracy_bias": {"class_path": "AccuracyBiasHead", "init_args": {"mode": "logit", "b_max": 4.0}},
            "temperature": {"class_path": "TemperatureHead"},
        }
    },
}
PARAMETERS = {
    "model.head.parts.temperature.tau": {"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
    "model.head.parts.accuracy_bias.beta": {"distribution": "uniform", "min": -4.0, "max": 4.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind")
    parser.add_argument("--count", type=int, default=12, help="points of a search")
    parser.add_argument("--metric", default="validation/loss", help="what is minimised; accuracies are maximised")
    given = parsed(parser, seeds=1, count=2)
    goal = "maximize" if given.metric.endswith("accuracy") else "minimize"
    gains = []
    for seed in range(given.seeds):
        best = {method: _best(given, method, goal, seed) for method in ("random", "bayes")}
        gains.append((best["bayes"] - best["random"]) * (1 if goal == "maximize" else -1))
        print(f"seed {seed}: random {best['random']:.5f}, bayes {best['bayes']:.5f}", flush=True)
    print(f"bayes better in {sum(gain > 0 for gain in gains)} of {len(gains)} seeds, {given.metric}")
    print(f"bayes_gain {sum(gains) / len(gains):.6f}")


def _best(given: argparse.Namespace, method: str, goal: str, seed: int) -> float:
    small = ["configs/debug/tiny.yaml"] if smoking() else []
    configs = ["configs/nano.yaml", *small, "configs/logger/none.yaml", json.dumps({"model": {"head": HEAD}})]
    words = [word for config in [*configs, "${args_json}"] for word in ("--config", config)]
    content: dict[str, Any] = {
        "method": method,
        "metric": {"name": given.metric, "goal": goal},
        "parameters": PARAMETERS,
        "command": ["${env}", "python", "-m", "moe_tune", "fit", *words],
    }
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{method}.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        sweep = load_sweep(file)
    folder = sweep_folder(sweep, given.runs_root, seed, {})
    points = run_sweep(sweep, folder, run_point, count=given.count, seed=seed)
    values = [point.value(folder, sweep.metric) for point in points]
    return (max if sweep.maximised else min)(value for value in values if value is not None)


if __name__ == "__main__":
    main()
