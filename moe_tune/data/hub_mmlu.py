"""MMLU from the Hugging Face Hub, pinned to one commit."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from moe_tune.base.errors import ConfigError, DataError, did_you_mean
from moe_tune.base.hub_snapshot import require_commit
from moe_tune.data.parquet_rows import hub_rows
from moe_tune.data.protocol import AUXILIARY
from moe_tune.data.source import QuestionSource, RawRow

_NAMES = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry "
    "college_computer_science college_mathematics college_medicine college_physics computer_security "
    "conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_macroeconomics "
    "high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology "
    "high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality "
    "international_law jurisprudence logical_fallacies machine_learning management marketing medical_genetics "
    "miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting "
    "professional_law professional_medicine professional_psychology public_relations security_studies "
    "sociology us_foreign_policy virology world_religions"
)
MMLU_SUBJECTS = frozenset(_NAMES.split())
"""The 57 subjects of MMLU."""

MMLU_SIZES = {"test": 14042, "validation": 1531, "dev": 285}
MMLU_COLUMNS = frozenset({"question", "subject", "choices", "answer"})


class HubMMLU(QuestionSource):
    """MMLU from the Hub: 57 subjects, four choices, and the large ``auxiliary_train`` split without subjects.

    Args:
        path: Dataset repository.
        config: ``all``, or one of the 57 subjects.
        revision: The full 40-digit commit to read; a branch or tag is refused, because it can move.
        train: What trains: ``auxiliary_train`` (99,842 questions), or ``validation`` (1,531, carved 80/20 by content
            hash into train and validation).

    Raises:
        ConfigError: The revision is no full commit, or there is no such config.

    Reference:
        Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300.
    """

    declared_subjects = MMLU_SUBJECTS
    answers_from = 0

    def __init__(
        self,
        path: str = "cais/mmlu",
        config: str = "all",
        revision: str = "c30699e8356da336a370243923dbaf21066bb9fe",
        train: Literal["auxiliary_train", "validation"] = "auxiliary_train",
    ) -> None:
        require_commit(revision, "data.source.revision")
        if config != "all" and config not in MMLU_SUBJECTS:
            raise ConfigError(
                f"expected 'all' or a subject but got {config!r} (data.source.config). "
                f"Hint: {did_you_mean(config, {'all', *MMLU_SUBJECTS})}"
            )
        self.path = path
        self.config = config
        self.revision_pin = revision
        self.train = train
        if config == "all":
            self.known_sizes = {**MMLU_SIZES, "train": 99842}
        else:
            self.declared_subjects = frozenset({config})

    def splits(self) -> tuple[str, ...]:
        return (
            ("train", "validation", "test", "dev") if self.train == "auxiliary_train" else ("validation", "test", "dev")
        )

    def revision(self) -> str:
        return f"{self.path}@{self.revision_pin}"

    def rows(self, split: str) -> Iterator[RawRow]:
        if split not in self.splits():
            raise DataError(
                f"expected one of the splits {list(self.splits())} but got {split!r} ({self.revision()}). "
                "Hint: data.source.train chooses what trains."
            )
        name = "auxiliary_train" if split == "train" else split
        for index, row in enumerate(hub_rows(self.path, self.config, self.revision_pin, name)):
            values = _unwrap(row, f"{self.path} {name}[{index}]")
            if split == "train" and values["subject"] == "":
                values["subject"] = AUXILIARY
            yield RawRow(f"{name}[{index}]", values)


def _unwrap(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    # The auxiliary split comes as one column "train" that holds the whole row.
    values = row["train"] if set(row) == {"train"} and isinstance(row["train"], Mapping) else row
    if set(values) != MMLU_COLUMNS:
        raise DataError(
            f"expected the columns {sorted(MMLU_COLUMNS)} but got {sorted(values)} ({where}). "
            "Hint: pin data.source.revision to a commit with MMLU's layout."
        )
    return dict(values)
