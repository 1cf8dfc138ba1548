"""An experiment folder of two tiny overlays, and an executor that writes made-up runs for it."""

import yaml
from made_up_runs import write_run

VALID = {
    "name": "nano_quiz",
    "claim": "Retuning the routers helps on the quiz layout.",
    "base": "base.yaml",
    "seeds": [1, 2],
    "arms": {"untouched": [], "retuned": ["overlay.yaml", "model.head.tau=0.5"]},
    "full_arms": {"all_tokens": ["model.scope=all"]},
    "splits": {"test": "quiz layout", "test_nano_textbook": "textbook layout"},
}


def write(folder, **changes):
    values = {key: value for key, value in (VALID | changes).items() if value is not ...}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


class Executor:
    """Writes a tiny run for each request, as the command line would."""

    def __init__(self, root):
        self.root, self.requests = root, []

    def __call__(self, request):
        self.requests.append(request)
        trained = request.arm != "untouched"
        return write_run(
            self.root / f"{request.name}-s{request.seed}-{len(self.requests)}",
            name=request.name,
            seed=request.seed,
            gain=0.15 if trained else 0.0,
            trainable=4096 if trained else 0,
        )
