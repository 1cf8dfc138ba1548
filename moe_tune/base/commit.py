"""The commit of the user's own repository, for records."""

import subprocess
from pathlib import Path


def git_commit(folder: Path) -> str | None:
    """Return the commit of the repository around a folder, with ``-dirty`` where files changed; ``None`` without."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
