"""Is a committee more than its mass? It is masked beside sets of other experts that carry the same weight.

``OMP_NUM_THREADS=1 python experiments/experts/committees.py`` reads ``results/committees.csv``, which ``collect.py``
has made, and writes ``results/committee_masks.csv``. Members are the most used experts, so no set of as many others
carries as much: the other sets are larger. Effects are told per unit of weight removed, at scope ``answer``, on
validation questions.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from moe_tune.base.published import published

RESULTS = Path(__file__).parent / "results"
BASE = ["ablate", "--config", "nano", "--config", "logger/none", "--data.test_protocols", "[]", "--experts", "0"]
LAYOUTS = {"quiz": [], "textbook": ["--data.protocol", "nano_textbook"]}
DRAWS = 10
"""Sets of other experts per committee."""


def main() -> None:
    """Mask committees and sets of the same weight."""
    committees, frames = pd.read_csv(RESULTS / "committees.csv"), []
    for layout, words in LAYOUTS.items():
        rows = committees[(committees["layout"] == layout) & committees["claimed"]]
        with tempfile.TemporaryDirectory() as name:
            run(*BASE, *words, "--out", f"{name}/first")  # for the weights
            observed = pd.read_parquet(f"{name}/first/observed.parquet")
            sets = {}
            for layer, members in zip(rows["layer"], rows["members"], strict=True):
                own = [int(one) for one in str(members).split()]
                weight_E = observed[observed["layer"] == layer].set_index("expert")["mean weight"].to_numpy()
                for draw, some in enumerate([own, *others(weight_E, own, layer)]):
                    sets[f"{'committee' if not draw else f'other{draw}'}_{layer}"] = (layer, some, weight_E[some].sum())
            told = [f"{name}={layer}:{','.join(map(str, some))}" for name, (layer, some, _) in sets.items()]
            run(*BASE, *words, "--sets", *told, "--out", f"{name}/sets")
            found = pd.read_parquet(f"{name}/sets/sets.parquet").set_index("set")
        for key, (layer, some, weight) in sets.items():
            one = found.loc[key]
            effects = {"log_prob": one["log_prob"], "low": one["log_prob_low"], "high": one["log_prob_high"]}
            told_of = {"layout": layout, "layer": layer, "set": key.partition("_")[0], "experts": len(some)}
            frames.append({**told_of, "weight": weight, **effects, "per_weight": one["log_prob"] / weight})
    with published(RESULTS / "committee_masks.csv") as draft:
        pd.DataFrame(frames).to_csv(draft, index=False, float_format="%.5g")


def others(weight_E: np.ndarray, own: list[int], layer: int) -> list[list[int]]:
    """Return sets of other experts, drawn at random until they carry as much as the members."""
    sets = []
    for draw in range(DRAWS):
        order = np.random.default_rng([layer, draw]).permutation(
            [one for one in range(len(weight_E)) if one not in own]
        )
        reach = np.cumsum(weight_E[order]) >= weight_E[own].sum()
        if reach.any():
            some = order[: int(reach.argmax()) + 1]
            sets.append(sorted(int(one) for one in some if weight_E[one] > 0))
    return sets


def run(*words: str) -> None:
    """Run a verb."""
    subprocess.run([sys.executable, "-m", "moe_tune", *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
