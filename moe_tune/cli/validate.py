"""The verb ``validate``."""

from moe_tune.cli.fit import lightning_verb

main = lightning_verb("validate")
