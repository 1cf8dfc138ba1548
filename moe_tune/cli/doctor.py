"""The verb ``doctor``: what this machine has, and what would stop a run."""

from typing import Any

from moe_tune.cli.verbs import parsed
from moe_tune.planning.doctor import facts, installed_versions, problems_of, what_libraries_see


def add_arguments(parser: Any) -> None:
    """There are no options but ``--help``."""


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print the state of the machine; return 0 when nothing stands in the way, else 2."""
    parsed("doctor", add_arguments, argv)
    versions = installed_versions()
    problems = problems_of(versions)
    told = {**facts(versions), **({} if problems else what_libraries_see())}
    for name, value in told.items():
        print(f"{name:<14} {value}")
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print("nothing stands in the way.")
    return 2 if problems else 0
