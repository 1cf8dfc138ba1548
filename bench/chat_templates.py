"""Chat templates of three kinds, as models bring them: a text format, one of control tokens, one without a system."""

from typing import Any

from tokenizers.processors import TemplateProcessing

END = "<|endoftext|>"

TULU = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' if message['role'] == 'user' else message['content'] + eos_token }}"
    "{% endfor %}"
)
TEMPLATES = {"tulu": TULU, "chatml": CHATML, "no_system": NO_SYSTEM}


def put_template(tokenizer: Any, name: str) -> None:
    """Give OLMo's tokenizer a template and the control tokens of it."""
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.bos_token = END
    if name == "chatml":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    else:  # the tokenizer begins texts with the token, too: there has to be one
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, tokenizer.convert_tokens_to_ids(END))]
        )
