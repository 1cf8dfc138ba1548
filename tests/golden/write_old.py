"""Makes ``old/`` anew with the program of cfcf61f: runs, a checkpoint, prompt caches, names, and what came of them.

    python tests/golden/write_old.py [--reference ../base]

Nobody should need it: what is there is what users of cfcf61f have on their disks, and is not to follow any change.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compare_with import checkout, environment
from golden_old import CACHED, FITS, OLD, PLUGIN, losses, named_commands
from golden_values import ANALYSIS, analysis_figures, comparison_figures, installed, letters, rounded, tensors

NAME = """
import json, sys
from moe_tune.cli import main
from moe_tune.runs.directory import RunDirectory
of = RunDirectory.of
def named(*arguments):
    print("name", of(*arguments).path.name)
    sys.exit()
RunDirectory.of = named
for argv in json.loads(sys.argv[1]):
    try:
        main(["fit", *argv])
    except SystemExit:
        pass
"""
KILL = """
import json, os, sys
from moe_tune.cli import main
from moe_tune.module import RouterTuner
step = RouterTuner.training_step
def killed(self, batch, batch_index):
    if self.global_step == 5:
        os._exit(9)
    return step(self, batch, batch_index)
RouterTuner.training_step = killed
main(json.loads(sys.argv[1]))
"""


class Builder:
    """A folder in which the program of a checkout runs.

    Args:
        tree: The checkout.
        folder: The folder.
    """

    def __init__(self, tree, folder):
        self.tree, self.folder = tree, folder
        (folder / "configs").symlink_to(tree / "configs")
        shutil.copy(OLD / "old_head.py.txt", folder / "old_head.py")
        shutil.copy(OLD / "rates.yaml", folder / "rates.yaml")

    def python(self, *words, code=0):
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.tree, self.folder), capture_output=True, text=True
        )
        assert done.returncode == code, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def program(self, *words):
        return self.python("-m", "moe_tune", *words)

    def only(self, pattern):
        (path,) = self.folder.glob(pattern)
        return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of cfcf61f; else a worktree is made")
    given = parser.parse_args()
    outcomes = {"versions": {name: installed(name) for name in ("torch", "lightning", "transformers")}}
    with checkout(given.reference) as tree, tempfile.TemporaryDirectory() as temporary:
        commands = named_commands()
        overlays = {f"configs/{path.parent.name}/{path.name}" for path in tree.glob("configs/*/*.yaml")}
        left = overlays - {word for argv in commands for word in argv}
        assert all(path.startswith("configs/sweep/") for path in left), left
        build = Builder(tree, Path(temporary))
        for name in ("runs", "prompts"):
            shutil.rmtree(OLD / name, ignore_errors=True)
        build.program(*FITS["finished"])
        build.program(*FITS["plugin"])
        finished, plugin = build.only("runs/nano-*"), build.only("runs/plugin-*")
        for run, words in ((finished, []), (plugin, PLUGIN)):
            keep(run)
            build.program(*words, "analyze", run.relative_to(build.folder), *ANALYSIS, "--out", "analysis")
            outcomes[f"analyze {run.name}"] = analysis_figures(build.folder / "analysis")
        build.program("compare", *(path.relative_to(build.folder) for path in (finished, plugin)))
        compared = build.only("runs/compare/*")
        outcomes["compare"] = {"folder": compared.name, **comparison_figures(compared)}
        build.python("-c", KILL, json.dumps(FITS["interrupted"]), code=9)
        interrupted = build.only("runs/interrupted-*")
        keep(interrupted)
        build.program(*FITS["interrupted"])
        outcomes["resumed"] = {
            "losses": losses(interrupted),
            "tensors": tensors(interrupted / "checkpoints" / "last.ckpt"),
            "letters": letters(interrupted / "questions" / "test.parquet"),
        }
        for name, words in CACHED.items():
            shutil.rmtree(build.folder / "cache")
            build.program(*words, f"--runs_root={name}")
            prompts = build.only("cache/moe_tune/prompts/*")
            shutil.copytree(prompts, OLD / "prompts" / prompts.name)
            outcomes[name] = {
                "key": prompts.name,
                "letters": letters(build.only(f"{name}/*/questions/validation.parquet")),
            }
        said = build.python("-c", NAME, json.dumps(commands)).splitlines()
        names = [line.partition(" ")[2] for line in said if line.startswith("name ")]
        pairs = [[argv, name] for argv, name in zip(commands, names, strict=True)]
        build.program("sweep", "rates.yaml")
        outcomes["sweep"] = build.only("runs/sweep-*").name
    (OLD / "names.json").write_text(json.dumps(pairs, indent=1) + "\n")
    (OLD / "outcomes.json").write_text(json.dumps(rounded(outcomes), separators=(",", ":")) + "\n")


def keep(run):
    """Copy a run without its figures."""
    shutil.copytree(run, OLD / "runs" / run.name, ignore=shutil.ignore_patterns("figures", "wandb"))


if __name__ == "__main__":
    main()
