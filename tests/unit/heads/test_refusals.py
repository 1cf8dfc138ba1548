"""Settings that no head takes are refused by name when it is made."""

import math

import pytest

import moe_tune.heads  # noqa: F401 (finds the heads)
from moe_tune.base.errors import ConfigError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.heads.base import RouterHead

OUTSIDE = {
    ("AccuracyBiasHead", "b_max"): (0.0, math.nan),
    ("AccuracyBiasHead", "beta"): (math.inf, math.nan),
    ("AccuracyBiasHead", "shrinkage"): (-1.0,),
    ("DefaultExpertHead", "beta"): (-0.1, 1.0, math.nan),
    ("DenseMixerHead", "chunk"): (0,),
    ("EntropyKHead", "ks"): ([8], [0, 8], [8, 8], [8, 4]),
    ("FixedKHead", "k"): (0, -1, {}, {0: 4, 1: 0}),
    ("JitterHead", "eps"): (-0.1, 1.0, math.nan),
    ("LossFreeBiasHead", "gamma"): (0.0, -1.0, math.inf, math.nan),
    ("LowRankHead", "alpha"): (0.0, math.nan, math.inf),
    ("LowRankHead", "rank"): (0,),
    ("MlpHead", "width"): (0,),
    ("QuantileBalanceHead", "ema"): (-0.1, 1.0, math.nan),
    ("ReluHead", "slots"): (0,),
    ("SigmoidHead", "score"): ("tanh",),
    ("SteerHead", "eps"): (0.0, math.nan, math.inf),
    ("SteerHead", "promote"): (-1,),
    ("SteerHead", "suppress"): (-1,),
    ("TemperatureHead", "tau"): (0.0, -1.0, math.nan, math.inf),
    ("TemperatureHead", "tau_end"): (0.0, -1.0, math.nan, math.inf),
    ("TopPHead", "p"): (0.0, 1.1, math.nan),
    ("TopPHead", "slots"): (0,),
}


@pytest.mark.parametrize(("kind", "key"), OUTSIDE)
def test_impossible_settings_are_refused(kind, key):
    for value in OUTSIDE[kind, key]:
        with pytest.raises(ConfigError, match=rf"head\.{key}"):
            concrete_subclasses(RouterHead)[kind](**{key: value})
