"""Run the verbs that look at nano's experts and put their tables into ``results/``.

``OMP_NUM_THREADS=1 python experiments/experts/collect.py`` audits both layouts at both scopes on validation questions,
copies the decisions of a retuned router layer by layer, and seeks committees and route regret. The test split stays
closed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from moe_tune.base.published import published

RESULTS = Path(__file__).parent / "results"
BASE = ["--config", "nano", "--config", "logger/none", "--data.test_protocols", "[]"]
LAYOUTS = {"quiz": [], "textbook": ["--data.protocol", "nano_textbook"]}
KEPT = [
    "layer",
    "expert",
    "log_prob",
    "log_prob_low",
    "log_prob_high",
    "accuracy",
    "kl",
    "treated",
    "p_claim",
    "evidence",
]


def main() -> None:
    """Run everything and write the tables."""
    found: dict[str, list[pd.DataFrame]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for layout, words in LAYOUTS.items():
            for scope in ("answer", "all"):
                out = place / f"{layout}-{scope}"
                tell("ablate", *BASE, *words, "--scope", scope, "--out", out)
                for table in ("experts", "bridge", "layers"):
                    frame = pd.read_parquet(out / f"{table}.parquet")
                    frame = frame[KEPT] if table == "experts" else frame
                    keep(found, table, frame, layout=layout, scope_of_effect=scope)
            out = place / f"{layout}-analysis"
            asked = [
                "--split",
                "validation",
                "--shots",
                "0",
                "--scopes",
                "answer",
                "--sensitivity",
                "0",
                "--regret",
                "1024",
            ]
            tell("analyze", *BASE, *words, *asked, "--out", out)
            for table in ("committees", "regret"):
                keep(found, table, pd.read_parquet(out / f"{table}.parquet"), layout=layout)
        tell("fit", *BASE, "--test_after_fit", "false", "--runs_root", place / "runs")
        (run,) = (place / "runs").iterdir()
        tell("ablate", run, "--experts", "0", "--out", place / "patched")
        keep(found, "patches", pd.read_parquet(place / "patched" / "patches.parquet"), layout="quiz")
    RESULTS.mkdir(exist_ok=True)
    for table, frames in found.items():
        with published(RESULTS / f"{table}.csv") as draft:
            pd.concat(frames, ignore_index=True).to_csv(draft, index=False, float_format="%.5g")


def keep(found: dict[str, list[pd.DataFrame]], table: str, frame: pd.DataFrame, **about: str) -> None:
    """Keep a table with what it is of in front."""
    frame = frame.copy()
    for column, value in reversed(about.items()):
        frame.insert(0, column, value)
    found.setdefault(table, []).append(frame)


def tell(*words: object) -> None:
    """Run a verb."""
    print(*words, flush=True)
    subprocess.run([sys.executable, "-m", "moe_tune", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
