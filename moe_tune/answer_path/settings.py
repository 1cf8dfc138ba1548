"""What a user may say about the answer path: the setting ``model.answer_path``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moe_tune.base.errors import require


@dataclass(frozen=True)
class AnswerPath:
    """When prompts are computed once and kept, so that every step after that costs one token per question.

    Args:
        use: ``auto`` takes the answer path wherever it is exact (scope ``answer``, no loss over all tokens, plain keys
            and values); ``always`` stops with the reason where it is not; ``never`` runs full prompts; ``trunk`` trains
            at any scope on kept hidden states that enter the first tuned layer, so that epochs skip what is below.
        folder: Where prompt caches are kept; ``null`` is ``$XDG_CACHE_HOME/moe_tune/prompts``.
        limit_gb: Most gigabytes (10^9 bytes) one split's cache may take on disk, at least 0; what would be larger is
            not kept.
        above_limit: What training does where its cache would be larger: ``sample`` takes as many questions as fit,
            sampled by subject; ``stream`` computes the prompts anew each epoch; ``trunk`` keeps hidden states as
            ``use: trunk`` does. Evaluation streams.
    """

    use: Literal["auto", "always", "never", "trunk"] = "auto"
    folder: str | None = None
    limit_gb: float = 20.0
    above_limit: Literal["sample", "stream", "trunk"] = "sample"

    def __post_init__(self) -> None:
        if self.folder is not None:
            place, where = Path(self.folder), "model.answer_path.folder"
            require(place.is_dir() or not place.exists(), "a folder", self.folder, where, "null takes the usual one.")
        require(self.limit_gb >= 0, "a size of at least 0", self.limit_gb, "model.answer_path.limit_gb", "20.")
