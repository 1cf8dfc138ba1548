"""The verb ``check``: configurations and sweep files, offline and without loading a model."""

import sys
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, MoeTuneError
from moe_tune.base.redact import without_secrets
from moe_tune.base.uncollected import uncollected
from moe_tune.cli.verbs import parsed


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="nano configs/sweep/*.yaml experiments/demo")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Check files, print a line for each that is valid and one for each mistake; return 0, else the mistakes' code.

    That is 3 or 4 where all are of the data or of the model, 2 with any other.
    """
    if names := {word.partition("=")[0] for word in argv} & {"--config", "-c"}:
        raise ConfigError(
            f"expected files but got {min(names)} (check). Hint: they stand alone: python -m moe_tune check nano"
        )
    files = parsed("check", add_arguments, argv).files
    with uncollected():
        from moe_tune.settings.shipped import found_config
        from moe_tune.studies.sweep_check import faults_of, kind_of

    found: list[MoeTuneError] = []
    for file in (_file_of(Path(found_config(name))) for name in files):
        faults = faults_of(file, plugins)
        found += faults
        if not faults:
            print(without_secrets(f"{file}: valid {kind_of(file)}"), flush=True)
        for fault in faults:
            print(f"moe_tune: {without_secrets(str(fault))}", file=sys.stderr, flush=True)
    codes = {fault.exit_code for fault in found}
    return 0 if not codes else codes.pop() if len(codes) == 1 else ConfigError.exit_code


def _file_of(path: Path) -> Path:
    """Return the file of an experiment's folder, and any other path as it is."""
    from moe_tune.studies.experiment_file import EXPERIMENT

    return path / EXPERIMENT if path.is_dir() else path
