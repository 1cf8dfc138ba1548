"""The verb ``check``: configurations and sweep files, offline and without loading a model."""

import argparse
import sys
from pathlib import Path

from moe_tune.base.errors import ConfigError
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.studies.sweep_check import faults_of
from moe_tune.studies.sweep_file import is_sweep


def main(argv: list[str], plugins: dict[str, str] | None = None) -> int:
    """Check files, print a line for each that is valid and one for each mistake; return 0, or 2 with any mistake.

    Args:
        argv: Arguments after the verb.
        plugins: sha256 of the user's plug-in files, by path.
    """
    parser = argparse.ArgumentParser(
        prog="moe_tune check",
        description="Check configurations, overlays and W&B sweep files: nothing is run, loaded or downloaded.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="configs/nano.yaml configs/sweep/*.yaml")
    faulty = False
    for file in parser.parse_args(argv).files:
        faults = faults_of(file, plugins)
        faulty = faulty or bool(faults)
        if not faults:
            print(f"{file}: valid {_kind(file)}", flush=True)
        for fault in faults:
            print(f"moe_tune: {fault}", file=sys.stderr, flush=True)
    return ConfigError.exit_code if faulty else 0


def _kind(file: Path) -> str:
    content = load_yaml(file)
    if not is_sweep(content):
        return "configuration"
    return f"{content['method']} sweep over {', '.join(content['parameters'])}"
