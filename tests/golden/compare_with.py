"""Runs small commands in a checkout of a reference commit and in this one, and compares all they leave, bit for bit.

    python tests/golden/compare_with.py                         # with a worktree of cfcf61f, removed at the end
    python tests/golden/compare_with.py --reference ../base     # with another checkout, which is only read
    python tests/golden/compare_with.py --only lora analyze     # some cases, and what they need
    python tests/golden/compare_with.py --keep ../outputs       # outputs stay; the reference's are used again

Every command is a process of one thread on this machine. Histories (but for times), tensors, records, tables, prompt
caches, names of folders, configurations, manifests and printed lines with numbers have to be the same; keys, files and
lines that are new are listed and allowed, those that are gone are not. The exit code is 1 if anything differs.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from golden_cases import CASES, with_needs
from golden_files import HEX, Result, compare_folders, neutral

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "cfcf61f"
LATER_COLUMNS = (
    "ci90_", "p_equivalence", "test", "detectable", "routed_elsewhere", "ece", "brier", "loss", "recall_spread",
)  # fmt: skip
KNOWN: dict[str, str] = {
    pattern: reason
    for reason, patterns in {
        "one Table draws on the terminal: other spaces, a dash for no value": (
            "sweep/printed by 0-sweep: * finished *",
            "sweep/printed by 0-sweep: optimizer.lr *",
        ),
        "format 2 holds no pickle, and its manifest names every file": tuple(
            f"*/checkpoints/*.ckpt/{place}"
            for place in ("manifest.json: format", "manifest.json: sha256.trainer.pt", "trainer.pt: file")
        ),
        "records hold the letters' mass": ("*.parquet: letter_mass*", "*.parquet: types.letter_mass"),
        "the history holds the learning rate": ("*/metrics.jsonl: lr-AdamW*",),
        "a line per epoch took the place of the logger's": ("*/printed by *: validation/loss: *",),
        "a fit's start-up line is said once; of the test only which way its prompts go": (
            "*/printed by *: trainable * test_nano_textbook *",
        ),
        "a curve that rises and falls is not monotone": (
            "analyze/printed by 0-analyze: * holds *",
            "analyze/analysis/report.md: *entropy rises from early to late layers*",
            "analyze/analysis/summary.json: claims[[]*",
        ),
        "a heading names all that is below it": ("analyze/analysis/report.md: ### Entropy*per layer*",),
        "best and worst leave out experts that serve everybody, and layers without spread": (
            "analyze/analysis/report.md: | * | best | *",
            "analyze/analysis/report.md: | * | worst | *",
            "analyze/analysis/report.md: Scope: *Best and worst*",
        ),
        "the ledger lies in the user's state folder, by the test's content": ("*/runs/test_ledger.jsonl: file",),
        "a comparison says how sure it is: Holm, what could be found, letters, where routing went": (
            *(f"*/table.csv: {column}*" for column in LATER_COLUMNS),
            "*/table.md: | ---- | *",
            "*/table.md: | arm | *",
            "*/table.md: | answer | *",
            "*/table.md: | identity | *",
            "*/table.md: *not corrected for the number of arms.*",
            "*/table.md: *median seed.*",
            "*/table.md: *exact McNemar test*",
            "*/summary.json: method.*",
            "compare/printed by 1-compare: answer *",
            "experiment/printed by 0-experiment: identity *",
            "experiment/printed by 0-experiment: Routing: *",
            "experiment/printed by 0-experiment: questions (95 % bound *",
        ),
        "two seeds speak of these routers: their interval is that of the questions": (
            "experiment/printed by 0-experiment: dense *",
            "experiment/*/table.md: *dense*",
            *(
                f"experiment/*/summary.json: *{key}*"
                for key in (".ci95", ".macro_ci95", ".se", ".df", ".decision", ".note", "verdict.")
            ),
            *(
                f"experiment/*/table.csv: {column}*"
                for column in ("ci95", "macro_ci95", "se", "df", "decision", "note")
            ),
        ),
        "no changed answer among 64 shows no equivalence": (
            "compare/printed by 1-compare: calibrated *",
            "compare/*/summary.json: verdict.test_nano_textbook",
            "compare/*/summary.json: *.decision",
            "compare/*/table.csv: decision*",
            "compare/*/table.md: *calibrated*",
        ),
    }.items()
    for pattern in patterns
}
"""Differences that are there on purpose: reason by pattern of ``case/path: place``, as printed. The commit that mends a
defect, and with it changes what comes out, adds a line; digits of configurations are written HEX."""
OTHERS = re.compile(r"Seed set|GPU available|`Trainer|Restoring states|Loaded model weights|it/s|\.py:\d+|Warning")
"""Lines of libraries, and bars."""
LATER = re.compile(r"; letter mass [\d.]+| \(last-\d+: it has no more\)|, [\d.]+ [kMG]B(?=, <folder>)")
"""What lines say that came later, or in another unit."""
SHOWN = 6
"""Differences of one thing that are printed."""


@contextmanager
def checkout(path):
    """Give the reference's folder: a checkout that is there, or a worktree that is removed afterwards."""
    if path is not None:
        yield path.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="moe_tune-reference-") as parent:
        tree = Path(parent) / COMMIT
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), COMMIT], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def environment(tree, folder):
    """Return the environment of a command: the package of that checkout, one thread, no network, caches of the case."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MOE_TUNE_", "SLURM_"))}
    places = {"PYTHONPATH": tree, "XDG_CACHE_HOME": folder / "cache", "MPLCONFIGDIR": folder.parent / ".matplotlib"}
    quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "160"}
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TERM": "dumb"}
    return kept | {name: str(place) for name, place in places.items()} | quiet | threads


def run_case(case, tree, folder):
    """Run the commands of a case in its folder, up to one that fails; what they print, and how they end, is kept there.

    Args:
        case: The case.
        tree: The checkout whose program runs.
        folder: Made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "configs").symlink_to(tree / "configs")  # so that every path is the same in both
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for number, words in enumerate(map(str.split, case.commands)):
        resolved = [path for word in words for path in (matches(folder, word) if "*" in word else [word])]
        command = [sys.executable, "-m", "moe_tune", *resolved]
        done = subprocess.run(command, cwd=folder, env=environment(tree, folder), capture_output=True, text=True)
        said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}".replace(str(folder), "<folder>")
        (folder / f"{number}-{words[0]}.log").write_text(said)
        if done.returncode:
            print(f"{folder.parent.name} {folder.name}: {' '.join(resolved)}\n{said[-3000:]}", flush=True)
            return
    (folder / "complete").write_text(repr(case))


def matches(folder, pattern):
    found = sorted(os.path.relpath(path, folder) for path in folder.glob(pattern))
    if not found:
        raise SystemExit(f"expected a path for {pattern} in {folder}; an earlier command has failed")
    return found


def run_all(cases, tree, folder, again):
    """Run cases of a checkout.

    Args:
        cases: The cases by name.
        tree: The checkout.
        folder: Gets a folder for each.
        again: Whether a case whose very commands have run to their end runs again.
    """
    where = [sys.executable, "-c", "import moe_tune; print(moe_tune.__file__)"]
    place = subprocess.check_output(where, cwd=folder, env=environment(tree, folder), text=True).strip()
    if Path(place).resolve().parents[1] != tree:
        raise SystemExit(f"expected the package of {tree} but got {place}")
    for name, case in cases.items():
        mark = folder / name / "complete"
        if again or not mark.is_file() or mark.read_text() != repr(case):
            begun = time.monotonic()
            run_case(case, tree, folder / name)
            print(f"{folder.name:9} {name:12} {time.monotonic() - begun:5.1f} s", flush=True)
        if not again and not mark.is_file():
            raise SystemExit(f"expected the reference to run {name} to its end, but it did not")


def printed(file):
    """Return the lines of this program that hold numbers."""
    lines = [LATER.sub("", neutral(line)).strip() for line in file.read_text().splitlines()]
    return [line for line in lines if re.search(r"\d", line) and not OTHERS.search(line)]


def compare_case(reference, other):
    """Yield the results of a case, the printed lines first."""
    for file in sorted(reference.glob("*.log")):
        before, after = printed(file), printed(other / file.name)
        gone = {line: "gone" for line in before if line not in after}
        new = [line for line in after if line not in before]
        yield Result(f"printed by {file.stem}", f"{len(before)} lines with numbers", gone, new)
    yield from compare_folders(reference, other)


def report(name, result):
    """Print what came of comparing one thing; return how many differences are unknown, and the others' patterns."""
    known, unknown = Counter(), {}
    for place, words in result.differences.items():
        where = HEX.sub("-HEX", f"{name}/{result.what}: {place}")
        pattern = next((one for one in KNOWN if fnmatchcase(where, one)), None)
        if pattern is None:
            unknown[where] = words
        else:
            known[pattern] += 1
    lines = [f"{where}: {words}" for where, words in unknown.items()]
    verdict = "DIFFERS" if unknown else "known" if known else "same"
    print(f"{verdict:8} {name}/{result.what}{f' ({result.size})' if result.size else ''}")
    for line in [*few(lines), *(f"{count} as {pattern!r}: {KNOWN[pattern]}" for pattern, count in known.items())]:
        print(f"           {line}")
    if result.additions:
        print(f"           new: {', '.join(few(result.additions))}")
    return len(unknown), set(known)


def few(words):
    return words[:SHOWN] + ([f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else [])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help=f"a checkout to compare with; else a worktree of {COMMIT}")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout that is compared; else this one")
    parser.add_argument("--only", nargs="+", choices=CASES, help="cases, instead of all")
    parser.add_argument("--keep", type=Path, help="where outputs go, and the reference's are looked for")
    given = parser.parse_args()
    cases = with_needs(given.only or list(CASES))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="moe_tune-golden-") as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        for side in ("reference", "other"):
            (folder / side).mkdir(parents=True, exist_ok=True)
        with checkout(given.reference) as tree:
            run_all(cases, tree, folder / "reference", again=False)
            run_all(cases, given.tree.resolve(), folder / "other", again=True)
        things = differing = differences = 0
        used: set[str] = set()
        for name in cases:
            for result in compare_case(folder / "reference" / name, folder / "other" / name):
                count, patterns = report(name, result)
                things, differing, differences = things + 1, differing + bool(count), differences + count
                used |= patterns
    if given.only is None and (idle := KNOWN.keys() - used):
        print(f"known differences that are not there: {sorted(idle)}")
    same = "identical" + (" but for known" if used else "")
    verdict = f"{differing} differ in {differences} places" if differing else same
    compared = f"{len(cases)} cases, {things} things compared with {given.reference or COMMIT}"
    print(f"{compared}: {verdict}; {time.monotonic() - begun:.0f} s")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
