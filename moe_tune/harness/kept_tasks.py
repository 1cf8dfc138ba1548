"""lm-eval's tasks as they are loaded, and what of them a run's head cannot serve."""

from collections.abc import Mapping
from typing import Any

from moe_tune.base.errors import ConfigError, DataError, MoeTuneError
from moe_tune.harness.prompt_lengths import refuse_cut_prompts

ROLLING = "loglikelihood_rolling"


class KeptTasks:
    """lm-eval's task manager; it keeps the tasks it loads, and refuses some before anything runs.

    Args:
        manager: lm-eval's own.
        without_prompt: Why runs cannot be asked for texts that have no prompt; ``None`` if they can.
    """

    def __init__(self, manager: Any, without_prompt: str | None) -> None:
        self.manager, self.without_prompt = manager, without_prompt
        self.tasks: Mapping[str, Any] = {}
        self.checked = False
        """Whether the prompts have been seen to fit; every arm is asked the same."""
        self.asked = False
        """Whether a model was asked anything: what fails before is a fault of the tasks."""

    def __getattr__(self, name: str) -> Any:
        """Be the manager in all else."""
        return getattr(self.manager, name)

    def load(self, names: Any) -> Any:
        """Load tasks as the manager does.

        Raises:
            ConfigError: One asks for rolling log-likelihoods and a head needs a prompt.
        """
        loaded = self.manager.load(names)
        self.tasks = loaded["tasks"]
        rolling = [name for name, task in self.tasks.items() if task.get_config("output_type") == ROLLING]
        if rolling and self.without_prompt:
            raise ConfigError(
                f"expected tasks with prompts but got {', '.join(rolling)}: {self.without_prompt}, and a rolling "
                "log-likelihood has no prompt (--tasks). Hint: leave out these tasks, or these runs."
            )
        return loaded

    def refuse_cut_prompts(self, model: Any) -> None:
        """Refuse tasks of whose prompts one does not fit the context, the first time it is asked."""
        if not self.checked:
            refuse_cut_prompts(model, self.tasks)
        self.checked = self.asked = True


def unloaded(fault: Exception, names: Any) -> MoeTuneError:
    """Return what to say of a fault of lm-eval before a model was asked anything."""
    if isinstance(fault, MoeTuneError):
        return fault
    text = " ".join(str(fault).split())[:300] or type(fault).__name__
    return DataError(
        f"expected tasks whose data and prompts lm-eval can make but got: {text} (--tasks {names}). Hint: without a "
        "network, a task with local files: --include_path FOLDER."
    )
