"""The commit of the user's own repository, for records."""

import subprocess
from pathlib import Path


def git_commit(folder: Path, written: str | None = None) -> str | None:
    """Return the commit of the repository around a folder, with ``-dirty`` where files changed; ``None`` without.

    Args:
        folder: The folder.
        written: What is being written below it, whose changes do not count.
    """
    left_out = [] if written is None else [f":(exclude){written}"]
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *left_out)
    return commit and f"{commit}{'-dirty' if changed else ''}"


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
