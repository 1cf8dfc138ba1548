"""``--smoke``: a bench at tiny sizes, in seconds, so that CI sees it run; its figures claim nothing."""

import io
import multiprocessing
import os
import runpy
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

SMOKE = "MOE_TUNE_BENCH_SMOKE"
"""Set in the environment, so that the processes a bench starts know it, too."""


def parsed(parser: ArgumentParser, **small: Any) -> Namespace:
    """Return the arguments of the command line; with ``--smoke``, sizes that were not given are small.

    Args:
        parser: The bench's own options.
        small: What they are in a smoke run.
    """
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in seconds: shows that it runs, no claim")
    given = parser.parse_args()
    if given.smoke:
        parser.set_defaults(**small)
        given = parser.parse_args()
        os.environ[SMOKE] = "1"
        print("smoke: tiny sizes, the figures below claim nothing")
    del given.smoke
    return given


def smoking() -> bool:
    """Return whether this is a smoke run."""
    return SMOKE in os.environ


def run_one(file: Path) -> tuple[bool, float, str]:
    """Run a bench with ``--smoke``; return whether it failed, its seconds, and what it printed."""
    sys.argv, start, failed = [str(file), "--smoke"], time.perf_counter(), False
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as end:
            failed = bool(end.code)
        except Exception:  # every bench is run, and told at the end
            traceback.print_exc()
            failed = True
    return failed, time.perf_counter() - start, said.getvalue()


def main() -> int:
    """Run every bench with ``--smoke``, one per core at a time, and return 1 if one failed."""
    folder = sorted(Path(__file__).parent.glob("*.py"))
    files = [one for one in folder if "ArgumentParser(" in one.read_text(encoding="utf-8") and one != Path(__file__)]
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = []
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for file, (fault, seconds, said) in zip(files, pool.map(run_one, files), strict=True):
            print(f"== {file.name}\n{said}== {file.name} {seconds:.0f} s", flush=True)
            failed += [file.name] if fault else []
    print(f"benches that failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
