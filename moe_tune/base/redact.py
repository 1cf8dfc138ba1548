"""Secrets out of a configuration, before it is written or sent anywhere."""

import os
import re
from typing import Any

REMOVED = "[removed]"
SECRET_WORDS = ("token", "apikey", "api_key", "password", "secret", "authorization")
IN_TEXT = ("api-key", "access_key", "secret_access_key", "passwd", "signature")
"""Further words before secrets in what other programs say."""
OWN_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
"""Environment variables whose values are secrets wherever they turn up: a W&B key has the shape of a git revision."""

_KEY = re.compile(rf"(?:^|_)(?:{'|'.join(SECRET_WORDS)})(?:_|$)")
_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*:/{1,2})[^/?#\s]*@", re.IGNORECASE)
_IN_QUERY = re.compile(rf"([?&;](?:\w+[_-])?(?:{'|'.join(SECRET_WORDS)})=)[^&;#\s]*", re.IGNORECASE)
_IN_NETWORK_PATH = re.compile(r"(?<![:\w])(//)[^/?#\s:@]+:[^/?#\s@]+@")
_WORD = "|".join((*SECRET_WORDS, *IN_TEXT))
_NAMED = rf"((?:^|[\s'\"{{,(_.-])(?:pg)?(?:{_WORD})['\"]?(?:\s*[=:]\s*|['\"]?,?\s+(?=\S*\d))"
_QUOTED = re.compile(rf"{_NAMED}(['\"]))(?!\[removed)[^'\"\n]+(?=\2)", re.IGNORECASE)
_IN_WORDS = re.compile(rf"{_NAMED}['\"]?(?:(?:bearer|basic|token)\s+)?+)(?!\[removed)[^\s'\",&;)}}\]]+", re.IGNORECASE)
_BY_SHAPE = re.compile(r"(?<![A-Za-z0-9_])(?:hf_[A-Za-z0-9]{16,}|wandb_v\d+_\w{16,})")


def redacted(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with ``[removed]`` in place of every secret.

    Secrets are the values of keys that name one (``hf_token``, ``apiKey``), credentials in addresses, strings in the
    shape of an access token, and the tokens of this process's environment. 40 hex digits alone stay: they are git
    revisions.

    Example:
        >>> redacted({"hf_token": "x", "max_tokens": 5, "tags": ["https://me:pass@example.org/a"]})
        {'hf_token': '[removed]', 'max_tokens': 5, 'tags': ['https://[removed]@example.org/a']}
    """
    own = [value for value in map(os.environ.get, OWN_SECRETS) if value]
    return {key: REMOVED if _names_secret(key, value) else _clean(value, own) for key, value in config.items()}


def without_secrets(text: str) -> str:
    """Return a message or a traceback with ``[removed]`` in place of every secret that ``redacted`` knows.

    Of words that name one, such as ``--hf_token VALUE`` or ``token=VALUE``, the value is taken for a secret, too.

    Example:
        >>> without_secrets("401 for https://me:pass@example.org/a, api_key=abc123")
        '401 for https://[removed]@example.org/a, api_key=[removed]'
    """
    own = [value for value in map(os.environ.get, OWN_SECRETS) if value]
    for pattern in (_QUOTED, _IN_WORDS):
        text = pattern.sub(rf"\1{REMOVED}", text)
    return _clean_text(text, own)


def _clean(value: Any, own: list[str]) -> Any:
    if isinstance(value, dict):
        return redacted(value)
    if isinstance(value, list | tuple):
        pairs = zip([None, *value], value, strict=False)  # an option's value follows its name
        return type(value)(REMOVED if _is_option_of_secret(name, one) else _clean(one, own) for name, one in pairs)
    return _clean_text(value, own) if isinstance(value, str) else value


def _clean_text(text: str, own: list[str]) -> str:
    for secret in own:
        text = text.replace(secret, REMOVED)
    for address in (_IN_URL, _IN_NETWORK_PATH):
        text = address.sub(rf"\1{REMOVED}@", text)
    text = _IN_QUERY.sub(rf"\1{REMOVED}", text)
    return _BY_SHAPE.sub(REMOVED, text)


def _is_option_of_secret(name: Any, value: Any) -> bool:
    return isinstance(name, str) and name.startswith("--") and isinstance(value, str) and _names_secret(name, value)


def _names_secret(key: Any, value: Any) -> bool:
    """Return whether a key has a secret's name as whole words, and a value that can be one."""
    if value is None or isinstance(value, bool):
        return False
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(key))
    return bool(_KEY.search(re.sub(r"[^a-z0-9]+", "_", words.lower())))
