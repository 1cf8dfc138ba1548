"""The verb ``doctor``: what this machine has, and what would stop a run."""

from typing import Any

from moe_tune.base.denied import refuse_denied
from moe_tune.cli.verbs import parsed
from moe_tune.planning.doctor import facts, installed_versions, problems_of, what_libraries_see


def add_arguments(parser: Any) -> None:
    """Add the option that tries some faults."""
    parser.add_argument(
        "--selftest",
        action="store_true",
        help="try kills, full disks, corrupt and foreign files on tiny fits",
    )


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print the state of the machine; return 0 when nothing stands in the way, else 2."""
    if parsed("doctor", add_arguments, argv).selftest:
        return _selftest()
    versions = installed_versions()
    problems = problems_of(versions)
    told = {**facts(versions), **({} if problems else what_libraries_see())}
    for name, value in told.items():
        print(f"{name:<14} {value}")
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        from moe_tune.planning.same_bits import what_would_differ

        for one in what_would_differ(versions):
            print(f"other bits: {one}")
        print("nothing stands in the way.")
    return 2 if problems else 0


def _selftest() -> int:
    from moe_tune.faults.short import short_cases
    from moe_tune.faults.surroundings import alone
    from moe_tune.faults.table import print_table

    refuse_denied()
    with alone():
        return 0 if print_table(short_cases()) else 1
