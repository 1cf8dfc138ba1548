"""Committee: some experts of each layer stay whatever happens; of the others those that fewest tokens choose go."""

import numpy as np

from moe_tune.base.errors import require
from moe_tune.criteria.base import Criterion, ExpertEvidence, Scores
from moe_tune.criteria.masking_effect import read_table


class KeptCommittee(Criterion):
    """Keeps a committee of each layer, and lets the others go, those that fewest tokens chose first.

    Formula: ``s_i = +inf`` for members, else ``n_i``, the tokens that chose expert i. Without a number all others go.

    Args:
        members: Layer to its members; layers without an entry have none.
        file: Parquet with the columns layer and expert, a row per member, instead.

    Raises:
        ConfigError: Neither or both are given, or a layer or an expert is not there.
        DataError: There is no such file.

    Reference:
        This project's committees.
    """

    def __init__(self, members: dict[int, list[int]] | None = None, file: str | None = None) -> None:
        one = (members is None) != (file is None)
        require(one, "members or a file of them", (members, file), "criterion", "--criterion.file FILE.parquet.")
        self.members, self.file = members, file

    def scores(self, evidence: ExpertEvidence) -> Scores:
        scores_LE = evidence.column("count").copy()
        for layer, expert in self._pairs():
            there = layer in evidence.layers and 0 <= expert < evidence.num_experts
            known = f"layers of {list(evidence.layers)} and experts 0 to {evidence.num_experts - 1}"
            require(there, known, (layer, expert), "criterion", "take the members of this model.")
            scores_LE[evidence.layers.index(layer), expert] = np.inf
        return scores_LE

    def _pairs(self) -> list[tuple[int, int]]:
        if self.members is not None:
            return [(int(layer), int(one)) for layer, some in self.members.items() for one in some]
        table = read_table(str(self.file))
        lacking = {"layer", "expert"} - {*table.columns}
        require(not lacking, "columns layer and expert", [*table.columns], str(self.file), "a row per member.")
        return [(int(layer), int(one)) for layer, one in zip(table["layer"], table["expert"], strict=True)]
