"""Settings that no head takes are refused by name when it is made."""

import math

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.default_expert import DefaultExpertHead
from moe_tune.heads.dense_mixer import DenseMixerHead
from moe_tune.heads.entropy_k import EntropyKHead
from moe_tune.heads.jitter import JitterHead
from moe_tune.heads.loss_free_bias import LossFreeBiasHead
from moe_tune.heads.low_rank import LowRankHead
from moe_tune.heads.mlp import MlpHead
from moe_tune.heads.quantile_balance import QuantileBalanceHead
from moe_tune.heads.relu import ReluHead
from moe_tune.heads.sigmoid import SigmoidHead
from moe_tune.heads.steer import SteerHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.heads.top_p import TopPHead

OUTSIDE = {
    (AccuracyBiasHead, "b_max"): (0.0, math.nan),
    (AccuracyBiasHead, "beta"): (math.inf, math.nan),
    (AccuracyBiasHead, "shrinkage"): (-1.0,),
    (DefaultExpertHead, "beta"): (-0.1, 1.0, math.nan),
    (DenseMixerHead, "chunk"): (0,),
    (EntropyKHead, "ks"): ([8], [0, 8], [8, 8], [8, 4]),
    (JitterHead, "eps"): (-0.1, 1.0, math.nan),
    (LossFreeBiasHead, "gamma"): (0.0, -1.0, math.inf, math.nan),
    (LowRankHead, "alpha"): (0.0, math.nan, math.inf),
    (LowRankHead, "rank"): (0,),
    (MlpHead, "width"): (0,),
    (QuantileBalanceHead, "ema"): (-0.1, 1.0, math.nan),
    (ReluHead, "slots"): (0,),
    (SigmoidHead, "score"): ("tanh",),
    (SteerHead, "eps"): (0.0, math.nan, math.inf),
    (SteerHead, "promote"): (-1,),
    (SteerHead, "suppress"): (-1,),
    (TemperatureHead, "tau"): (0.0, -1.0, math.nan, math.inf),
    (TemperatureHead, "tau_end"): (0.0, -1.0, math.nan, math.inf),
    (TopPHead, "p"): (0.0, 1.1, math.nan),
    (TopPHead, "slots"): (0,),
}


@pytest.mark.parametrize(("kind", "key"), OUTSIDE, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_impossible_settings_are_refused(kind, key):
    for value in OUTSIDE[kind, key]:
        with pytest.raises(ConfigError, match=rf"head\.{key}"):
            kind(**{key: value})
