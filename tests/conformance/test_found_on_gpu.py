"""Every family's gate decides on a CUDA GPU as it does without us, to the last bit at the model's own dtype."""

import pytest
import torch
from found_models import TYPES, found_model
from test_found_families import DTYPES, questions

from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: torch.cuda.is_available() is false"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_head_at_its_start_changes_no_bit(model_type, dtype):
    model, family = found_model(model_type, dtype)
    model.cuda()
    batch = {name: value.cuda() for name, value in questions((9, 5, 9)).items()}
    with torch.no_grad():
        stock = model(**batch, use_cache=False).logits
        for head, scope in ((IdentityHead(), "all"), (RetunedHead(), "all"), (RetunedHead(), "answer")):
            gated = GatedModel(model, family, head, "all", scope, "native")
            gated.cuda()
            assert torch.equal(model(**batch, use_cache=False).logits, stock)
            gated.detach()
