"""The cluster examples hold together, and under SLURM and torchrun process 0 alone is the one that writes."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from tiny_runs import QUIET

from moe_tune.runs.directory import RunDirectory
from moe_tune.settings.fit_settings import FitSettings

CLUSTER = Path(__file__).parents[3] / "configs" / "cluster"
SCRIPTS = sorted(path for path in CLUSTER.iterdir() if path.suffix in (".sbatch", ".sh"))


def slurm(rank):
    """Return what srun sets for a process of two nodes with two each."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "moe_tune",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "node[7-8]",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % 2),
        "SLURM_NODEID": str(rank // 2),
    }


def torchrun(rank):
    """Return what torchrun sets for the same process."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "4",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % 2),
        "GROUP_RANK": str(rank // 2),
        "MASTER_ADDR": "node7",
        "MASTER_PORT": "29500",
    }


PLACES = pytest.mark.parametrize(
    ("variables", "environment"), [(slurm, SLURMEnvironment), (torchrun, TorchElasticEnvironment)]
)


def command(script):
    """Return the words of the script's command, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", script.read_text().replace("\\\n", " "))
    (line,) = [line for line in text.splitlines() if "-m moe_tune" in line]
    return shlex.split(line)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_script_is_sound_and_its_command_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    words = command(script)
    settings = FitSettings(words[words.index("fit") + 1 :]).settings
    assert (settings.trainer.strategy, settings.trainer.num_nodes, settings.trainer.devices) in [
        ("ddp", "2", "4"),
        ("ddp", 2, 4),
        ("ddp", 2, "4"),
    ]


def test_what_slurm_is_asked_for_is_what_the_trainer_expects():
    text = (CLUSTER / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    words = command(CLUSTER / "slurm.sbatch")
    assert words[0] == "srun"
    assert asked["nodes"] == words[words.index("--trainer.num_nodes") + 1]
    assert asked["ntasks-per-node"] == words[words.index("--trainer.devices") + 1]
    before = text[: text.index("set -euo")]
    assert text.count("#SBATCH --") == before.count("#SBATCH --"), "SLURM reads none after the first command"


def test_torchrun_starts_as_many_as_the_trainer_expects():
    words = command(CLUSTER / "torchrun.sh")
    for ours, theirs in (("--trainer.num_nodes", "--nnodes"), ("--trainer.devices", "--nproc_per_node")):
        assert words[words.index(ours) + 1] == words[words.index(theirs) + 1]


@PLACES
@pytest.mark.parametrize("rank", [0, 3])
def test_lightning_takes_its_ranks_from_the_cluster_and_the_first_process_writes(
    monkeypatch, tmp_path, variables, environment, rank
):
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # the trainer sets it for the whole process
    for name, value in variables(rank).items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(strategy="ddp", accelerator="cpu", devices=2, num_nodes=2, **QUIET)
    assert isinstance(trainer.strategy.cluster_environment, environment)
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank) == (4, rank, rank % 2)
    RunDirectory(tmp_path / "run").update_manifest(status="started")
    assert (tmp_path / "run" / "manifest.json").is_file() == (rank == 0)


@PLACES
def test_before_there_is_a_trainer_other_processes_leave_the_run_alone(monkeypatch, tmp_path, variables, environment):
    """Lightning takes its rank from these variables when it is imported."""
    (tmp_path / "run").mkdir()
    for name, value in variables(1).items():
        monkeypatch.setenv(name, value)
    assert _get_rank() == 1
    monkeypatch.setattr(rank_zero_only, "rank", _get_rank())
    assert RunDirectory(tmp_path / "run").set_aside() is None
    assert (tmp_path / "run").is_dir()
