"""``--smoke``: a bench at tiny sizes, in seconds, so that CI sees it run; its figures claim nothing."""

import os
import runpy
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
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


def main() -> int:
    """Run every bench with ``--smoke`` in one process and return 1 if one failed."""
    failed = []
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if "ArgumentParser(" not in file.read_text(encoding="utf-8") or file == Path(__file__):
            continue
        print(f"== {file.name}", flush=True)
        sys.argv, start = [str(file), "--smoke"], time.perf_counter()
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as end:
            failed += [file.name] if end.code else []
        except Exception:  # every bench is run, and told at the end
            traceback.print_exc()
            failed.append(file.name)
        print(f"== {file.name} {time.perf_counter() - start:.0f} s", flush=True)
    print(f"benches that failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
