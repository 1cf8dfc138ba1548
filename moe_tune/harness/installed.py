"""Whether lm-eval is there, in the version whose batches and files this room knows."""

import importlib.metadata

from moe_tune.base.errors import ConfigError

VERSION = "0.4.13"


def require_lm_eval() -> None:
    """Refuse to go on without lm-eval.

    Raises:
        ConfigError: It is not installed, or in another version.
    """
    try:
        came = importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        came = "none installed"
    if came != VERSION:
        raise ConfigError(f"expected lm-eval {VERSION} but got {came}. Hint: pip install 'lm-eval[hf]=={VERSION}'")
