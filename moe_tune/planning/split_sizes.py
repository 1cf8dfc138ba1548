"""How many questions the splits of a configuration have and how long their prompts are, before a run counts them."""

from collections.abc import Iterable

from moe_tune.answer_path.prefixes import shared_prefixes
from moe_tune.base.errors import ServiceError
from moe_tune.data.encoding import PromptedQuestion, PromptEncoder
from moe_tune.data.hub_mmlu import MMLU_SIZES, HubMMLU
from moe_tune.data.module import QuizDataModule
from moe_tune.data.question import Question
from moe_tune.data.splits import stratified_sample
from moe_tune.models.base_model import BaseModel
from moe_tune.models.shapes import ModelShape
from moe_tune.planning.estimate import Split

SAMPLE = 500
"""Prompts of a split that are encoded to learn their lengths."""
MMLU_TOKENS = 123.3
"""Mean tokens of a 0-shot prompt of MMLU's test split under the protocol lm_eval with OLMoE's tokenizer, as counted."""
SPLITS = ("train", "validation", "test")


def splits_of(
    quiz: QuizDataModule, base: BaseModel, shape: ModelShape, questions: int | None, prompt_tokens: float | None
) -> dict[str, Split]:
    """Return the sizes of the splits: counted where the questions and the tokenizer are here, else as published."""
    if questions is not None and prompt_tokens is not None:
        return {name: _flat(questions, prompt_tokens, "as given") for name in SPLITS}
    try:
        found = {name: quiz.splits.questions(name) for name in SPLITS}
        dev = quiz.splits.questions("dev") if quiz.few_shot else []
        prompts = {name: _prompts(quiz, base, shape, stratified_sample(found[name], SAMPLE), dev) for name in SPLITS}
    except ServiceError:
        if not isinstance(quiz.splits.source, HubMMLU):
            raise
        return _published(quiz, questions, prompt_tokens)
    return {name: split_of(prompts[name], questions or len(found[name]), prompt_tokens) for name in SPLITS}


def split_of(prompts: list[PromptedQuestion], questions: int, prompt_tokens: float | None) -> Split:
    """Return a split as large as said, with the lengths of some of its prompts; a prefix is shared however many ask."""
    if prompt_tokens is not None:
        return _flat(questions, prompt_tokens, "counted; tokens as given")
    shared = shared_prefixes(prompts)
    tokens = sum(one.length for one in prompts)
    own = sum(len(one.ids_S) - 1 - shared.length(place) for place, one in enumerate(prompts))
    times = questions / len(prompts)
    source = "counted" if times == 1 else f"tokens by a sample of {len(prompts)} prompts"
    kept, prefixes = times * own + sum(map(len, shared.tokens_G)), len(shared.tokens_G)
    answers = sum(one.length - len(one.ids_S) + 1 for one in prompts) / len(prompts)
    scored = sum(len(ids) for one in prompts for ids in one.choices) / len(prompts)
    return Split(questions, times * tokens, kept, source, prefixes, answers, scored)


def _prompts(
    quiz: QuizDataModule, base: BaseModel, shape: ModelShape, questions: list[Question], dev: Iterable[Question]
) -> list[PromptedQuestion]:
    examples: dict[str, list[Question]] = {}
    for one in dev:
        examples.setdefault(one.subject, []).append(one)
    most = quiz.max_length or shape.context
    encoder = PromptEncoder(base.load_tokenizer(), quiz.protocol, most, quiz.few_shot, examples)
    return encoder.encode(questions, quiz.on_bad_row).prompts


def _flat(questions: int, tokens: float, source: str) -> Split:
    return Split(questions, questions * tokens, questions * (tokens - 1), source)


def _published(quiz: QuizDataModule, questions: int | None, prompt_tokens: float | None) -> dict[str, Split]:
    sizes = {**MMLU_SIZES, **quiz.splits.source.known_sizes}
    if quiz.splits.carved:
        sizes |= {"train": round(0.8 * sizes["validation"]), "validation": round(0.2 * sizes["validation"])}
    tokens = prompt_tokens or MMLU_TOKENS * (1 + quiz.few_shot)
    source = "published number; " + ("tokens as given" if prompt_tokens else f"{tokens:.0f} tokens a prompt assumed")
    return {
        name: _flat(questions or min(sizes[name], quiz.splits.limits.get(name, sizes[name])), tokens, source)
        for name in SPLITS
    }
