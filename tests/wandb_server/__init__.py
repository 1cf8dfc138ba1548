"""A W&B server on the loopback address, which speaks what the unmodified ``wandb`` 0.31 needs and keeps all of it.

Tests take the fixture ``wandb_server`` (``tests/integration/conftest.py``), start programs with its ``environment`` and
look at its ``store``:

    def test_something(wandb_server, tmp_path):
        subprocess.run([...], env=wandb_server.environment(tmp_path), timeout=120, check=True)
        (run,) = wandb_server.store.runs.values()
        assert run.history[-1]["loss"] < 1
        assert run.config["model.scope"] == "answer"
        assert wandb_server.store.unknown == []

Sweeps: ``wandb sweep`` makes one in ``store.sweeps``, and ``wandb agent`` is handed its points one at a time: those of
a grid, draws without end for a random sweep (``wandb agent --count``), and for any other method what a test puts into
the list ``sweep.planned``. ``run.stop = True`` ends a run early: its agent is told to stop it, or the run itself where
no agent started it.

Faults: ``server.fault`` is an HTTP status that answers everything, or ``"silent"`` for connections that are taken and
never answered; ``server.dies_after_rows`` makes the server vanish once it holds that many history rows.
"""
