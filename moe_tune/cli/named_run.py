"""The run that a command names first, by path or bare name."""

from itertools import pairwise
from pathlib import Path

from moe_tune.base.errors import ConfigError


def named_checkpoint(verb: str, argv: list[str]) -> Path:
    """Return the checkpoint of the run that the first word names, looked for below ``--runs_root`` if that is given.

    Raises:
        ConfigError: The word is a configuration's name.
        DataError: There is no such run.
        ModelError: It has no checkpoint, or its files are not what its manifest says.
    """
    from moe_tune.base.found import ROOT, found_checkpoint
    from moe_tune.settings.shipped import found_config

    name = argv[0]
    pairs = [*(word.partition("=")[::2] for word in argv), *pairwise(argv)]
    root = next((Path(value) for key, value in pairs if key == "--runs_root" and value), ROOT)
    if not any(folder.is_dir() for folder in (Path(name), root / name)) and Path(found_config(name)).is_file():
        raise ConfigError(
            f"expected a run but got {name!r}, which is a configuration ({verb}). "
            f"Hint: python -m moe_tune {verb} --config {name}{' ...' if argv[1:] else ''}"
        )
    return found_checkpoint(name, root)


def run_or_config(verb: str, argv: list[str]) -> tuple[Path | None, list[str]]:
    """Return the checkpoint of the run that a command names first, if it does, and a fit's arguments for it.

    Raises:
        ConfigError: It names neither a run nor a configuration.
    """
    from moe_tune.base.checkpoint_folder import CONFIG

    run = named_checkpoint(verb, argv) if argv and not argv[0].startswith("-") else None
    words = argv if run is None else ["--config", str(run / CONFIG), *argv[1:]]
    if not {word.partition("=")[0] for word in words} & {"--config", "-c", "-h", "--help", "--help-all"}:
        raise ConfigError(
            f"expected a run directory first, or --config FILE, but got {' '.join(argv) or 'nothing'} ({verb}). "
            f"Hint: python -m moe_tune {verb} --config configs/nano.yaml"
        )
    return run, words
