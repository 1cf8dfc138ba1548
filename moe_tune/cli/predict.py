"""The verb ``predict``."""

from moe_tune.cli.fit import lightning_verb

main = lightning_verb("predict")
