"""The user's folders for caches and state, where the XDG base directories say."""

import os
from pathlib import Path


def user_folder(variable: str, usual: str) -> Path:
    """Return this program's folder in one of the user's; a relative value of the variable does not count, as XDG says.

    Args:
        variable: ``XDG_CACHE_HOME`` or ``XDG_STATE_HOME``.
        usual: The folder where the variable says none.

    Reference:
        https://specifications.freedesktop.org/basedir-spec/latest/
    """
    given = Path(os.environ.get(variable) or usual).expanduser()
    return (given if given.is_absolute() else Path(usual).expanduser()) / "moe_tune"
