"""The head in W&B is a checkpoint: what is downloaded can be loaded, an adapter too."""

import shutil

import pytest
import torch
from kept_state import KEPT

from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import RunDirectory
from moe_tune.tracking.wandb_head import send_head

ABOUT = {"head": "RetunedHead", "scope": "answer", "layers": [1], "losses": [], "seed": 0, "trainable_parameters": 4}
HEADS = {"layers.1.weight": torch.ones(2, 2), "adapter.q.weight": torch.ones(2)}


class Taker:
    """Takes artifacts as W&B does, and gives the files of each back as a download would."""

    def __init__(self):
        self.taken = []

    def log_artifact(self, artifact, aliases):
        self.taken.append((aliases, {name: entry.local_path for name, entry in artifact.manifest.entries.items()}))

    def download(self, folder):
        for aliases, files in self.taken:
            for name, source in files.items():
                target = folder / "-".join(aliases) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        return sorted(folder.iterdir())


@pytest.mark.parametrize("best", [0.0, 1.0])
def test_a_downloaded_head_is_a_checkpoint(tmp_path, best, capsys):
    directory = RunDirectory(tmp_path / "run")
    directory.update_manifest(**ABOUT, status="finished", base={}, data={}, tested_checkpoint="best.ckpt")
    (directory.path / "metrics.jsonl").touch()
    for name, shift in (("last", 0.0), ("best", best)):
        state = {"state_dict": {key: value + shift for key, value in HEADS.items()}, "adapter": {"r": 1}}
        to = directory.path / "checkpoints" / f"{name}.ckpt"
        RouterCheckpointIO(lambda: "model: {}\n").save_checkpoint(KEPT | state, to)
    run = Taker()
    send_head(run, directory.path)
    assert capsys.readouterr() == ("", ""), "the last lines of a fit are its own"
    came = run.download(tmp_path / "downloaded")
    assert [folder.name for folder in came] == (["best", "last"] if best else ["best-last"])
    for folder in came:
        loaded = RouterCheckpointIO().load_checkpoint(folder)
        assert loaded["global_step"] == 7
        assert torch.equal(
            loaded["state_dict"]["adapter.q.weight"], HEADS["adapter.q.weight"] + best * (folder.name == "best")
        )
        assert (folder / "adapter" / "adapter_config.json").is_file()
