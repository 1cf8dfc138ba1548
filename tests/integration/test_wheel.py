"""The wheel works where there is no checkout: configurations, protocols, the nano model and templates are inside."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    # The build backend comes from this environment: no network is needed.
    words = ["-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(out), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Return a fresh environment's Python, which has the wheel, and the other packages of this one beside."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    # Read after the fresh environment's own: the wheel's copy of the program comes first.
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*words, cwd):
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(place / "bin" / "python"), *words], cwd=cwd, env=clean, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_the_wheel_holds_what_the_checkout_has(wheel):
    inside = {name.removeprefix("moe_tune/") for name in zipfile.ZipFile(wheel).namelist()}
    folder = ROOT / "moe_tune"
    wanted = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert wanted <= inside
    assert not any(name.startswith(("tests", "bench", "experiments")) for name in inside)


@pytest.mark.slow
def test_a_fit_and_a_trace_run_in_an_empty_folder(python, tmp_path):
    home = python("-c", "import moe_tune; print(moe_tune.__file__)", cwd=tmp_path).stdout
    assert Path(home.strip()).is_relative_to(tmp_path.parent)
    tiny = ["--config", "nano", "--config", "head/temperature", "--config", "debug/tiny", "--config", "logger/none"]
    done = python("-m", "moe_tune", "fit", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("nano-*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    done = python("-m", "moe_tune", "trace", run.name, "The capital of", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "trace" / "trace.html").is_file()


@pytest.mark.slow
def test_the_command_of_the_wheel_stands_what_the_module_stands(python, tmp_path):
    command = Path(python("-c", "import moe_tune; print(moe_tune.__file__)", cwd=tmp_path).stdout).parents[1] / "bin"
    closed = "import os, runpy, sys; os.close(1); sys.stdout = None; sys.argv = [sys.argv[1], 'list', 'heads']; "
    done = python(
        "-c", closed + "runpy.run_path(sys.argv[0], run_name='__main__')", str(command / "moe-tune"), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
