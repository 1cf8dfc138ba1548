"""Finding an arm by what a person types: a run as everywhere, or a log of another program."""

from pathlib import Path

from moe_tune.base.checkpoint_folder import MANIFEST
from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.base.found import found_run
from moe_tune.compare.outside import is_outside
from moe_tune.data.raw_tables import SUFFIXES

KINDS = "a run directory, a file of lm-eval's samples or a folder of them, or a table of answers"


def found_arm(name: str, root: Path) -> Path:
    """Return the run directory, or the file or folder of a log.

    Args:
        name: A path, or the bare name of a run below ``root``.
        root: Where runs are looked for by name.

    Raises:
        DataError: There is none of that name, or it is a file or folder of another kind.
    """
    path = Path(name)
    if is_outside(path):
        return path
    if path.is_file():
        raise DataError(
            f"expected {KINDS} but got a {path.suffix or 'nameless'} file ({path}). "
            f"Hint: tables and samples are {', '.join(SUFFIXES)}."
        )
    if path.is_dir() and not (path / MANIFEST).is_file():
        inside = sorted({file.parent for file in path.glob("*/samples_*.jsonl")}) or _tables(path)
        if inside:
            named = ", ".join(map(str, inside[:4]))
            raise DataError(f"expected {KINDS} but got a folder ({path}). Hint: give what lies in it: {named}.")
    if path.suffix in SUFFIXES and not path.exists() and not (root / name).is_dir():
        near = [file.name for file in _tables(path.parent)] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) if near else f"{path.parent} holds no such files."
        raise DataError(f"expected {KINDS} but there is no file {name!r} (compare). Hint: {hint}")
    return found_run(name, root)


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
