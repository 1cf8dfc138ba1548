import pytest
from made_up_runs import write_run


@pytest.fixture(scope="session")
def run_dirs(tmp_path_factory):
    """A baseline with one seed, a retuned arm with three, a fixed one with one."""
    root = tmp_path_factory.mktemp("runs")
    baseline = write_run(root / "nano-identity-s1-aaaa", name="untouched")
    retuned = [
        write_run(root / f"nano-retuned-s{seed}-bbbb", name="retuned", seed=seed, gain=0.15, trainable=4096)
        for seed in (3, 1, 2)
    ]
    fixed = write_run(root / "nano-fixed-s1-cccc", name="fixed", gain=0.002)
    return {"root": root, "baseline": baseline, "retuned": retuned, "fixed": fixed}
