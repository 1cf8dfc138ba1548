"""Every fault case beside what came of it: ``python tests/faults/table.py [--long] [KIND ...]`` (``make faults``)."""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
LONG = "--long"
"""Takes the modules that begin with ``long_`` in place of those with ``cases_``."""


def all_cases(prefix="cases_"):
    """Return the cases of the modules beside this one, in the order of the modules' names."""
    modules = [importlib.import_module(file.stem) for file in sorted(HERE.glob(f"{prefix}*.py"))]
    return [case for module in modules for case in module.CASES]


def main(kinds):
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from moe_tune.faults.surroundings import alone
    from moe_tune.faults.table import print_table

    asked = {*kinds} - {LONG}
    known = all_cases("long_" if LONG in kinds else "cases_")
    if unknown := asked - {case.kind for case in known}:
        kinds = ", ".join(dict.fromkeys(case.kind for case in known))
        print(f"no cases of {', '.join(sorted(unknown))}; there are {kinds}")
        return 2
    cases = [case for case in known if not asked or case.kind in asked]
    with alone():
        return 0 if print_table(cases) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
