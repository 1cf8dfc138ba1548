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
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from golden_cases import CASES, with_needs
from golden_files import HEX, SHOWN, Result, compare_folders, neutral

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "cfcf61f"
KNOWN: dict[str, str] = {
    f"sweep/printed by 0-sweep: {line}": "one Table draws on the terminal: other spaces, a dash for no value"
    for line in ("* finished *", "optimizer.lr *")
} | {
    f"*/checkpoints/*.ckpt/{place}": "format 2 holds no pickle, and its manifest names every file"
    for place in ("manifest.json: format", "manifest.json: sha256.trainer.pt", "trainer.pt: file")
}
"""Differences that are there on purpose: reason by pattern of ``case/path: place``, as printed. The commit that mends a
defect, and with it changes what comes out, adds a line; digits of configurations are written HEX."""
OTHERS = re.compile(r"Seed set|GPU available|`Trainer|Restoring states|Loaded model weights|it/s|\.py:\d+|Warning")
"""Lines of libraries, and bars."""


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
    return kept | {
        "PYTHONPATH": str(tree),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder.parent / ".matplotlib"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": "160",
        "TERM": "dumb",
    }


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
    for number, words in enumerate(case.commands):
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
        again: Whether a case that is complete runs again.
    """
    where = [sys.executable, "-c", "import moe_tune; print(moe_tune.__file__)"]
    place = subprocess.check_output(where, cwd=folder, env=environment(tree, folder), text=True).strip()
    if Path(place).resolve().parents[1] != tree:
        raise SystemExit(f"expected the package of {tree} but got {place}")
    for name, case in cases.items():
        if again or not ended(case, folder / name):
            begun = time.monotonic()
            run_case(case, tree, folder / name)
            print(f"{folder.name:9} {name:12} {time.monotonic() - begun:5.1f} s", flush=True)
        if not again and not ended(case, folder / name):
            raise SystemExit(f"expected the reference to run {name} to its end, but it did not")


def ended(case, folder):
    """Return whether these very commands have run to their end."""
    mark = folder / "complete"
    return mark.is_file() and mark.read_text() == repr(case)


def printed(file):
    """Return the lines of this program that hold numbers."""
    lines = [neutral(line).strip() for line in file.read_text().splitlines()]
    return [line for line in lines if re.search(r"\d", line) and not OTHERS.search(line)]


def compare_case(reference, other):
    """Yield the results of a case, the printed lines first."""
    for file in sorted(reference.glob("*.log")):
        before, after = printed(file), printed(other / file.name)
        result = Result(f"printed by {file.stem}", f"{len(before)} lines with numbers")
        result.differences = {line: "gone" for line in before if line not in after}
        result.additions = [line for line in after if line not in before]
        yield result
    yield from compare_folders(reference, other)


def report(name, result):
    """Print what came of comparing one thing; return how many differences are unknown, and the others' patterns."""
    known, unknown = {}, {}
    for place, words in result.differences.items():
        where = HEX.sub("-HEX", f"{name}/{result.what}: {place}")
        pattern = next((one for one in KNOWN if fnmatchcase(where, one)), None)
        if pattern is None:
            unknown[where] = words
        else:
            known[pattern] = known.get(pattern, 0) + 1
    verdict = "DIFFERS" if unknown else "known" if known else "same"
    print(f"{verdict:8} {name}/{result.what}{f' ({result.size})' if result.size else ''}")
    for where, words in list(unknown.items())[:SHOWN]:
        print(f"           {where}: {words}")
    if len(unknown) > SHOWN:
        print(f"           and {len(unknown) - SHOWN} more")
    for pattern, count in known.items():
        print(f"           {count} as {pattern!r}: {KNOWN[pattern]}")
    if result.additions:
        more = f" and {len(result.additions) - SHOWN} more" if len(result.additions) > SHOWN else ""
        print(f"           new: {', '.join(result.additions[:SHOWN])}{more}")
    return len(unknown), set(known)


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
    verdict = (
        f"{differing} differ in {differences} places" if differing else "identical" + (" but for known" if used else "")
    )
    print(
        f"{len(cases)} cases, {things} things compared with {given.reference or COMMIT}: {verdict}; "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
