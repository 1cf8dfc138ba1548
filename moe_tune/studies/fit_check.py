"""What is wrong with the arguments of a fit, found offline and without loading a model."""

from typing import Any, ClassVar

from moe_tune.base.errors import ConfigError, MoeTuneError
from moe_tune.heads.identity import IdentityHead
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.refusals import refuse_idle_losses, refuse_missing_text
from moe_tune.tuner.dry_open import refuse_misfit
from moe_tune.tuner.opening import ModelSettings


class _CheckedFit(FitSettings):
    """A fit's arguments with everything made of them that is made without touching a file."""

    not_made: ClassVar[dict[str, Any]] = {"logger": False}


def together(faults: list[MoeTuneError]) -> MoeTuneError:
    """Return several faults as one, of their kind if they are all of one, else of a configuration's."""
    kinds = {type(fault) for fault in faults}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    return kind("\n".join(map(str, faults)))


def fault_of_fit(
    argv: list[str], plugins: dict[str, str] | None, *, whole: bool = True, sweep: bool = False
) -> MoeTuneError | None:
    """Return what is wrong with the arguments of a fit, if anything is.

    Args:
        argv: The arguments.
        plugins: sha256 of the plug-in files that are loaded, by path.
        whole: Whether they are all of a fit's, or an overlay that does not say which head its losses are for.
        sweep: Whether they are those of a sweep's point, which leaves the test split closed.
    """
    try:
        cli = _CheckedFit(argv, plugins)
        if whole:
            refuse_idle_losses(cli.model)
            refuse_missing_text(cli.model, cli.datamodule)
            refuse_misfit(cli.model.asked)
            if (teacher := cli.model.taught_by) is not None:
                refuse_misfit(ModelSettings(teacher, IdentityHead()))
        if sweep and cli.settings.test_after_fit:
            raise ConfigError(
                "expected a sweep that leaves the test split closed but got true (test_after_fit). "
                "Hint: --test_after_fit=false in the command; a choice by the test split cannot be tested on it."
            )
    except MoeTuneError as fault:
        return fault
    return None
