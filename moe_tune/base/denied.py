"""Releases of libraries that must never be imported, and why."""

import importlib.metadata

from moe_tune.base.errors import ConfigError

DENIED = {
    "lightning": dict.fromkeys(("2.6.2", "2.6.3"), "a malicious upload"),
    "pytorch-lightning": dict.fromkeys(("2.6.2", "2.6.3"), "a malicious upload"),
}
"""Why a release is denied, by its version, by library."""


def denied_releases() -> list[str]:
    """Return what is wrong with each library whose installed release is denied; nothing is imported."""
    return [found for name in DENIED if (found := denied(name, installed(name)))]


def denied(name: str, version: str | None) -> str:
    """Return what is wrong with a release of a library; an empty text if nothing is known.

    Example:
        >>> denied("lightning", "2.6.3")
        'lightning 2.6.3 was a malicious upload. Hint: install another, and change every key it could read.'
    """
    if version is None or (why := DENIED.get(name, {}).get(version)) is None:
        return ""
    return f"{name} {version} was {why}. Hint: install another, and change every key it could read."


def installed(name: str) -> str | None:
    """Return the installed version of a library; ``None`` if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def refuse_denied() -> None:
    """Refuse to go on beside a release that must not be imported.

    Raises:
        ConfigError: Such a release is installed.
    """
    for found in denied_releases():
        raise ConfigError(f"expected releases that are known to be good but got a denied one: {found}")
