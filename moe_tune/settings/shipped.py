"""Configurations by name: those of the working folder first, then the copies that come with the program."""

import difflib
from pathlib import Path

from moe_tune.base.errors import ConfigError

PACKAGE = Path(__file__).parents[1]


def shipped_folder() -> Path:
    """Return the folder of the configurations that come with the program: in the wheel, or in the checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def found_config(name: str) -> str:
    """Return the file that a configuration's name stands for; the name itself if there is none.

    ``head/temperature`` and ``configs/head/temperature.yaml`` are looked up as they stand, then in the working folder's
    ``configs``, then among the copies that come with the program.

    Example:
        >>> Path(found_config("head/temperature")).name
        'temperature.yaml'
    """
    plain = name.removeprefix("configs/")
    folders = (Path("configs"), shipped_folder())
    for place in (Path(name), *(folder / f"{plain}{end}" for folder in folders for end in ("", ".yaml"))):
        if place.is_file():
            return str(place)
    return name


def not_found(name: str) -> ConfigError:
    """Return the fault of a name that no configuration has, with the closest one."""
    known = [str(one.relative_to(shipped_folder()).with_suffix("")) for one in shipped_folder().rglob("*.yaml")]
    close = difflib.get_close_matches(name.removeprefix("configs/").removesuffix(".yaml"), known, n=1)
    guess = f"did you mean {close[0]}?" if close else "a path, or a name such as nano or head/temperature."
    if Path(f"{name}.yaml").is_file():  # only names of the folder configs go without their end
        guess = f"did you mean {name}.yaml?"
    return ConfigError(f"expected a configuration file but got {name!r} (--config). Hint: {guess}")
