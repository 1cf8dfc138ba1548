"""Is a model with random weights right by chance on every set of the wheel, and on MMLU?

A small OLMoE with random weights and OLMoE's tokenizer answers the sets of ``configs/tests/suite.yaml``, untouched.
It prefers some letters, so that chance is not one over the number of choices: it is the sum over letters of the share
given times the share that is right. Each accuracy must lie in the 99.9 % interval around that; outside, a set is
misread, or its answers show. Run it as ``python bench/suite_chance.py``.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import pandas as pd

from bench.mid_size import machine_line
from bench.smoke import parsed
from moe_tune.settings.running import run
from moe_tune.stats.letter_chance import expected_by_letters, interval_by_letters

ROOT = Path(__file__).resolve().parents[1]
FILES = ("mmlu_offline", "tests/suite", "head/identity", "logger/none")


def answered(folder: Path, questions: int) -> dict[str, pd.DataFrame]:
    """Return the questions of every test split, with the letter that is right and the one given."""
    words = ["test", *(word for name in FILES for word in ("--config", str(ROOT / f"configs/{name}.yaml")))]
    words += ["--runs_root", str(folder), "--model.answer_path.use", "never", "--trainer.enable_progress_bar", "false"]
    path = run([*words, *(["--data.limit_test", str(questions)] if questions else [])]).path
    return {file.stem: pd.read_parquet(file) for file in sorted((path / "questions").glob("test*.parquet"))}


def main() -> int:
    """Run the bench; return 1 if a set is outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=0, help="questions of each set; 0 asks all")
    options = parsed(parser, questions=24)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        splits = answered(Path(name), options.questions)
    inside = 0
    print(f"{'set':<22}{'n':>7}{'accuracy':>10}{'expected':>10}{'99.9 % interval':>18}  letters given")
    for split, table in splits.items():
        if split.endswith(".base"):
            continue
        gold, given = table["gold"].tolist(), table["prediction"].tolist()
        accuracy = float((table["gold"] == table["prediction"]).mean())
        (low, high), expected = interval_by_letters(gold, given), expected_by_letters(gold, given)[0]
        within = low - 1e-12 <= accuracy <= high + 1e-12
        inside += within
        shares = "/".join(f"{100 * given.count(letter) / len(given):.0f}" for letter in range(max(gold) + 1))
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        row = f"{split:<22}{len(gold):>7}{100 * accuracy:>10.2f}{100 * expected:>10.2f}{interval:>18}  {shares}"
        print(row + ("" if within else "  OUTSIDE"))
    asked = sum(not split.endswith(".base") for split in splits)
    print(f"suite_chance {inside / asked:.3f}")
    return 0 if inside == asked else 1


if __name__ == "__main__":
    sys.exit(main())
