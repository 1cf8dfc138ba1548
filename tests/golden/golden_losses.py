"""The losses of two short nano fits, step by step, in full precision, and where they were computed.

    OMP_NUM_THREADS=1 python tests/golden/golden_losses.py --write

Equal bits are asked for where processor, torch and threads are those of the file; elsewhere 1e-4, which plain gradient
descent keeps to. Write them again only with a change that moves them on purpose, and say so in its commit.
"""

import json
import os
import sys
from pathlib import Path

FILE = Path(__file__).with_name("losses.json")
TOLERANCE = 1e-4
FITS = {
    "answer": ["--model.scope=answer", "--optimizer.lr=0.3"],
    "all": ["--model.scope=all", "--model.answer_path.use=never", "--optimizer.lr=0.05"],
}
SHORT = [
    *("--config=configs/nano.yaml", "--config=configs/logger/none.yaml", "--config=configs/losses/balance_z.yaml"),
    *("--data.source.train=128", "--data.source.validation=64", "--data.source.test=64", "--data.batch_size=16"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"),
    *("--trainer.limit_val_batches=0", "--test_after_fit=false", "--optimizer=torch.optim.SGD"),
    *("--trainer.accelerator=cpu", "--model.base.experts_implementation=grouped_mm"),
]


def here():
    """Return what the bits of a loss hang on: the processor, torch, and how many threads it has."""
    import torch

    from moe_tune.planning.same_bits import processor

    return {"processor": processor(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def losses(root):
    """Return the losses of every step of each fit, as they are in its history."""
    from moe_tune.cli.main import main

    found = {}
    for name, words in FITS.items():
        assert main(["fit", *SHORT, *words, "--name", name, "--runs_root", str(root)]) == 0
        (file,) = root.glob(f"{name}-*/metrics.jsonl")
        rows = map(json.loads, file.read_text().splitlines())
        kept = [{key: row[key] for key in sorted(row) if key.startswith("train/loss")} for row in rows]
        found[name] = [row for row in kept if row]
    return found


def write():
    """Write the losses of this checkout."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        os.environ.update(XDG_CACHE_HOME=folder, XDG_STATE_HOME=folder)
        came = losses(Path(folder) / "runs")
    FILE.write_text(json.dumps({"where": here(), "losses": came}, indent=1) + "\n")
    print(f"{FILE}: {sum(map(len, came.values()))} steps")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    os.chdir(Path(__file__).parents[2])  # where configs/ is
    sys.path.insert(0, ".")
    write()
