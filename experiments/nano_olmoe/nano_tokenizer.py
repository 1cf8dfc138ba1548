"""The nano OLMoE's tokenizer: one token per word, made from the quiz's own word tables."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from moe_tune.data.nano_facts import vocabulary
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import LETTERS, Question

PROTOCOLS = ("nano_textbook", "nano_quiz", "lm_eval")
"""The protocols whose own words get a token; the model is pretrained on the first two."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a whole-word tokenizer that knows every word of the quiz under each of ``PROTOCOLS``.

    White space only separates, and every punctuation mark is a token of its own, so that the answer letter in a
    prompt's choice line and the letter that is scored are one and the same token.
    """
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])
    blank = Question(subject="", stem="", choices=("",) * 4, answer=0, id="", content_hash="")
    texts = [*vocabulary(), *LETTERS[:4]]
    for protocol in map(load_protocol, PROTOCOLS):
        # The header as it is written: its placeholder's brace signs and name are tokens too, which no prompt uses.
        texts.append(protocol.header_without_subject + protocol.header + protocol.prompt(blank))
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(text)]
    numbered = {word: index for index, word in enumerate(dict.fromkeys(["<pad>", "<unk>", "<eos>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(numbered, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        padding_side="right",
        model_max_length=1024,
    )
