"""Which experts a LoRA trains, and of what rank, so that every choice of them has as many parameters."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from moe_tune.base.errors import did_you_mean, require

UNSCALED = ("target_modules", "rank_pattern", "alpha_pattern", "use_rslora")
"""Options of PEFT under which a raised rank is no longer as many parameters, or as large a step, as before."""
By = Literal["usage", "accuracy", "random", "effect", "table"]
FROM_FILE = {"effect": "-log_prob", "table": "effect"}
"""The choices that read a file, and the column they take."""


@dataclass(frozen=True, slots=True)
class ExpertSubset:
    """The experts of each layer that a LoRA on fused expert weights trains; it leaves the others as they are.

    Formula: of E experts the ``n = max(1, round(share E))`` first by some order, with rank ``r E / n`` and
    ``lora_alpha`` raised alike: they have as many parameters as all E of rank r, and the same ``lora_alpha / r``.

    Args:
        by: Order of the experts: ``usage``, training questions whose answer token chose them; ``accuracy``, the share
            of these answered correctly, drawn towards the layer's by how far chance reaches, among equals the more
            used first; ``random``; ``effect``, first those whose masking took most from the correct letter's
            log-probability, by the ``experts.parquet`` of ``ablate --split train``; or ``table``, any file that says
            it.
        share: Share of a layer's experts, above 0, to 1.
        seed: Seed of the random order.
        table: File of ``effect`` or ``table``, csv or parquet, with ``layer``, ``expert`` and ``column``.
        column: The column to order by, the largest first; with a minus before its name, the smallest. ``null`` is
            ``-log_prob`` of ``effect``, as what masking takes is below 0, and ``effect`` of ``table``.

    Raises:
        ConfigError: A value is out of range, or there is a file where none is read, or none where one is.

    Example:
        >>> ExpertSubset("usage", 0.25).scaled({"r": 2, "lora_alpha": 4}, 64)
        {'r': 8, 'lora_alpha': 16}
    """

    by: By
    share: float = 0.25
    seed: int = 0
    table: str | None = None
    column: str | None = None

    @classmethod
    def of(cls, given: Any) -> "ExpertSubset | None":
        """Return the choice that ``model.peft.experts`` says; ``None`` where it says nothing."""
        if given is None:
            return None
        where, hint = "model.peft.experts", "experts: {by: usage, share: 0.25}."
        require(isinstance(given, dict) and "by" in given, "a mapping with by", given, where, hint)
        known = [one.name for one in fields(cls)]
        for name in given:
            require(name in known, "a key of model.peft.experts", name, where, did_you_mean(str(name), known))
        subset = cls(**given)
        require(subset.by in get_args(By), f"one of {', '.join(get_args(By))}", subset.by, f"{where}.by", hint)
        share = subset.share
        fits = isinstance(share, float | int) and 0 < share <= 1
        require(fits, "a share above 0, to 1", share, f"{where}.share", "0.25 is a quarter of each layer's experts.")
        named = (subset.table is None) == (subset.by not in FROM_FILE)
        what = "a file with by: effect or by: table, and only there"
        require(named, what, subset.table, f"{where}.table", "table: experts.parquet.")
        text = isinstance(subset.column, str | None) and isinstance(subset.table, str | None)
        require(text, "names of a file and a column", (subset.table, subset.column), where, "table: experts.parquet.")
        whole = type(subset.seed) is int and 0 <= subset.seed < 2**63
        require(whole, "a whole number from 0", subset.seed, f"{where}.seed", "the default is 0.")
        return subset

    @property
    def reads_training(self) -> bool:
        """Whether it reads how the training questions were routed and answered."""
        return self.by in ("usage", "accuracy")

    def count(self, experts: int) -> int:
        """Return how many of a layer's experts are trained."""
        return max(1, round(self.share * experts))

    def scaled(self, options: dict[str, Any], experts: int) -> dict[str, Any]:
        """Return the options of a LoRA with the rank that makes up for the experts left out.

        Raises:
            ConfigError: It would be no whole number, or an option goes by another measure than the rank of them all.
        """
        rank, alpha, count = options.get("r", 8), options.get("lora_alpha", 8), self.count(experts)
        for name, fits in (("r", type(rank) is int and rank > 0), ("lora_alpha", isinstance(alpha, int | float))):
            require(fits, "a number above 0", options.get(name), f"model.peft.{name}", f"{name}: 8.")
        for name in UNSCALED:
            hint = "leave it out: the rank of the others would count for the experts left out, too."
            require(not options.get(name), "a LoRA on fused expert weights alone", name, "model.peft.experts", hint)
        whole = (rank * experts) % count == 0
        hint = f"a share of which {count} of {experts} experts divide r x {experts}; share 0.25 or 0.5 mostly do."
        require(whole, "a rank that is a whole number", f"{rank} x {experts} / {count}", "model.peft.experts", hint)
        raised = alpha * experts / count
        same = int(raised) if raised == int(raised) else raised
        return {**options, "r": rank * experts // count, "lora_alpha": same}
