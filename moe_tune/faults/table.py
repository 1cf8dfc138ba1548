"""The table of fault cases: each is tried in a folder of its own, and printed beside what was expected."""

import os
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moe_tune.faults.case import Case
from moe_tune.faults.trial import Trial


def tried(case: Case) -> str:
    """Try a case in a folder of its own, and return what came, in the words of what was expected if all is well."""
    with tempfile.TemporaryDirectory(prefix="moe_tune-fault-", ignore_cleanup_errors=True) as folder:
        try:
            return case.attempt(Trial(Path(folder)))
        except Exception as fault:  # a case that cannot be tried is one that did not go well, and says why
            where = traceback.extract_tb(fault.__traceback__)[-1]
            return f"{type(fault).__name__} {fault} ({Path(where.filename).name}:{where.lineno})"


def _timed(case: Case) -> tuple[str, float]:
    begun = time.monotonic()
    return tried(case), time.monotonic() - begun


def print_table(cases: Sequence[Case], workers: int | None = None) -> bool:
    """Try cases, some at a time, print a row for each in their order, and return whether all went as expected.

    One that is off is tried once more with nothing beside it, as others take its time, and has a second row.

    Args:
        cases: The cases; those that have to be alone come last, one after the other.
        workers: How many are tried at once; ``None`` is one more than there are cores, as some wait for silent servers.
    """
    begun = time.monotonic()
    together, alone = ([case for case in cases if case.alone is one] for one in (False, True))
    off: list[Case] = []
    print(f"{'':<9} {'kind':<11} {'s':>5}  {'case':<68} expected | got", flush=True)
    for some, pool_size in ((together, workers or 1 + (os.cpu_count() or 1)), (alone, 1)):
        with ThreadPoolExecutor(pool_size) as pool:
            for case, came in zip(some, pool.map(_timed, some), strict=True):
                if not _row(case, *came):
                    off.append(case)
    still = [case for case in off if not _row(case, *_timed(case), "again ")]
    again = f", {len(off)} of them tried again" if off else ""
    print(f"{time.monotonic() - begun:.0f} s{again}", flush=True)
    print(f"faults {len(cases) - len(still)} of {len(cases)}", flush=True)
    return not still


def _row(case: Case, got: str, seconds: float, again: str = "") -> bool:
    well = got == case.expected
    mark = f"{again}{'ok' if well else 'OFF'}"
    print(f"{mark:<9} {case.kind:<11} {seconds:5.1f}  {case.name:<68} {case.expected} | {got}", flush=True)
    return well
