"""Every fault case beside what came of it: ``python tests/faults/table.py [KIND ...]`` (``make faults``)."""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
LONG = "long_"
"""What the modules of ``make faults-long`` begin with."""


def all_cases(prefix="cases_"):
    """Return the cases of the modules beside this one, in the order of the modules' names."""
    return [case for file in sorted(HERE.glob(f"{prefix}*.py")) for case in importlib.import_module(file.stem).CASES]


def main(kinds):
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from moe_tune.faults.surroundings import alone
    from moe_tune.faults.table import print_table

    cases = [case for case in all_cases() if not kinds or case.kind in kinds]
    with alone():
        return 0 if print_table(cases) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
