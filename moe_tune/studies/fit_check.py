"""What is wrong with the arguments of a fit, found offline and without loading a model."""

from moe_tune.base.errors import ConfigError, MoeTuneError
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.refusals import refuse_idle_losses


def fault_of_fit(
    argv: list[str], plugins: dict[str, str] | None, *, whole: bool = True, sweep: bool = False
) -> str | None:
    """Return what is wrong with the arguments of a fit, if anything is.

    Args:
        argv: The arguments.
        plugins: sha256 of the plug-in files that are loaded, by path.
        whole: Whether they are all of a fit's, or an overlay that does not say which head its losses are for.
        sweep: Whether they are those of a sweep's point, which leaves the test split closed.
    """
    try:
        cli = FitSettings(argv, plugins)
        if whole:
            refuse_idle_losses(cli.model)
        if sweep and cli.settings.test_after_fit:
            raise ConfigError(
                "expected a sweep that leaves the test split closed but got true (test_after_fit). "
                "Hint: --test_after_fit=false in the command; a choice by the test split cannot be tested on it."
            )
    except MoeTuneError as fault:
        return str(fault)
    return None
