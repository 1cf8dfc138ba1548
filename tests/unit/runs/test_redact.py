"""Whatever the shape of a configuration, no secret comes out of it, and nothing else is changed."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.redact import REMOVED, redacted, without_secrets

SECRET = "Zq9-hunter2-Zq9"
HF_TOKEN = "hf_" + "AbC123" * 6
REVISION = "b89a7c4bc24fb9e55ce2543c9458ce0ca5c4650e"

SECRET_KEYS = st.sampled_from(
    [
        *("token", "hf_token", "HF_TOKEN", "HFToken", "access-token", "api_key", "apiKey", "X-Api-Key", "APIKey"),
        *("db.password", "Password", "client_secret", "Authorization"),
    ]
)
PLAIN_KEYS = st.sampled_from(
    ["path", "revision", "max_tokens", "tokenizer", "tokenizer_file", "secretary", "tokens_per_expert", "key"]
)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(
        [REVISION, "allenai/OLMoE-1B-7B", "https://example.org/a@b?x=1", "me@example.org", "hf_hub_offline"]
    ),
)
SECRET_TEXTS = st.sampled_from(
    [
        f"https://user:{SECRET}@example.org/x",
        f"see HTTPS://{SECRET}@example.org and more",
        f"postgres://me:a@{SECRET}@db:5432/x",
        f"https://example.org/?a=1&api_key={SECRET}&b=2",
        f"https://example.org/?hf_token={SECRET}",
        f"--x={HF_TOKEN}",
    ]
)


def trees(leaves, keys):
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3))
    )


@given(st.dictionaries(PLAIN_KEYS, trees(PLAIN, PLAIN_KEYS)))
def test_what_holds_no_secret_is_kept_as_it_is(config):
    assert redacted(config) == config


HIDING = st.one_of(
    st.dictionaries(SECRET_KEYS, trees(st.just(SECRET), PLAIN_KEYS), min_size=1, max_size=3), SECRET_TEXTS
)


@given(st.dictionaries(PLAIN_KEYS, trees(st.one_of(PLAIN, HIDING), PLAIN_KEYS)))
def test_no_secret_comes_out_and_the_input_is_untouched(config):
    before = copy.deepcopy(config)
    clean = redacted(config)
    assert config == before
    text = json.dumps(clean)
    assert SECRET not in text
    assert HF_TOKEN not in text
    assert redacted(clean) == clean


@given(SECRET_KEYS, st.one_of(st.text(), st.integers(), st.lists(st.text())))
def test_a_key_that_names_a_secret_hides_any_value(key, value):
    assert redacted({key: value}) == {key: REMOVED}


@pytest.mark.parametrize("value", [None, True, False])
def test_a_switch_or_nothing_is_no_secret(value):
    assert redacted({"token": value}) == {"token": value}


def test_a_key_of_this_process_is_removed_although_it_looks_like_a_revision(monkeypatch):
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert redacted({"tags": [f"key {key}", REVISION]}) == {"tags": [f"key {REMOVED}", REVISION]}


@pytest.mark.parametrize(
    "said",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET} and more",
        f"PGPASSWORD={SECRET}",
        f"passwd={SECRET}",
        f"X-Api-Key: {SECRET}",
        f"https://bucket.example.org/x?X-Amz-Signature={SECRET}&y=1",
        f"//user:{SECRET}@example.org/x",
        f"hf_token: 'two words {SECRET}'",
        f'{{"password": "a {SECRET}"}}',
        f"--hf_token {SECRET}",
        f"token={SECRET}",
    ],
)
def test_no_message_holds_a_secret_that_its_words_name(said):
    assert SECRET not in without_secrets(said)
    assert REMOVED in without_secrets(said)
    assert without_secrets(without_secrets(said)) == without_secrets(said)


@pytest.mark.parametrize(
    "said",
    [
        "expected at most 512 tokens but got 600 (data.max_tokens). Hint: --data.max_tokens 600.",
        "tokenizer: nano, tokens_per_expert=3",
        "the key 'tokens' is missing",
        "http://127.0.0.1:8000/a and http://example.org/a@b",
        "expected a signature of one argument but got two",
    ],
)
def test_a_message_without_secrets_stays_as_it_is(said):
    assert without_secrets(said) == said


def test_the_value_after_an_option_that_names_a_secret_is_removed():
    assert redacted({"words": ["--hf_token", SECRET, "--x", "1"]}) == {"words": ["--hf_token", REMOVED, "--x", "1"]}
