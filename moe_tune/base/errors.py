"""The faults a user can meet, each with the exit code the command line ends with."""

import difflib
from collections.abc import Iterable


class MoeTuneError(Exception):
    """A fault with a remedy: shown as one message, never as a traceback.

    The message follows one form: what was expected, what came, where, and the command or key that mends it.
    """

    exit_code = 1


class ConfigError(MoeTuneError):
    """A usage or configuration fault; exit code 2."""

    exit_code = 2


class DataError(MoeTuneError):
    """Questions that do not fit their schema, their prompt or their split; exit code 3."""

    exit_code = 3


class ModelError(MoeTuneError):
    """A base model or checkpoint that is incompatible, incomplete, corrupt or untrusted; exit code 4."""

    exit_code = 4


class NumericsError(MoeTuneError):
    """A loss, gradient or router value that is not finite; exit code 5."""

    exit_code = 5


class ResourceError(MoeTuneError):
    """Too little memory or disk; exit code 6."""

    exit_code = 6


class ServiceError(MoeTuneError):
    """An external service that is needed and cannot be reached; exit code 7, worth a retry."""

    exit_code = 7


def require(holds: bool, expected: str, came: object, where: str, hint: str) -> None:
    """Refuse a configured value that does not hold.

    Raises:
        ConfigError: It does not.
    """
    if not holds:
        raise ConfigError(f"expected {expected} but got {came!r} ({where}). Hint: {hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the closest known word and all of them.

    Example:
        >>> did_you_mean("IdentiyHead", ["IdentityHead", "TemperatureHead"])
        'Did you mean IdentityHead? Available: IdentityHead, TemperatureHead.'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]}? " if close else ""
    return f"{guess}Available: {', '.join(names)}."
