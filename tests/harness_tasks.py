"""Tasks for lm-eval in local files, of every kind that it has, about what the nano model knows."""

import json

import yaml

from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.nano_text import NanoText
from moe_tune.data.protocol import load_protocol
from moe_tune.data.validation import validate_split

TASKS = ("nano_choices", "nano_letters", "nano_said", "nano_rolling")
DOCUMENTS = 24


def metrics(**better):
    return [{"metric": name, "aggregation": how, "higher_is_better": up} for name, (how, up) in better.items()]


def write_tasks(folder):
    """Write the tasks, and return the folder for ``--include_path``."""
    layout = load_protocol("lm_eval")
    questions = [
        {"prompt": layout.prompt(one), "choices": list(one.choices), "answer": one.answer, "letter": one.letter}
        for one in validate_split(NanoQuiz(test=DOCUMENTS), "test").questions
    ]
    texts = [{"text": one.values["text"]} for one in NanoText(DOCUMENTS).documents()]
    for name, rows in (("quiz", questions), ("text", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    right = metrics(acc=("mean", True))
    asked = {"doc_to_text": "{{prompt}}", "doc_to_target": "answer"}
    said = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
    # The model goes on after its letter; what stands before a full stop is the answer.
    first = {"filter": [{"function": "regex", "regex_pattern": "([A-D])"}, {"function": "take_first"}]}
    tasks = {
        "nano_choices": {**asked, "output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": right},
        "nano_letters": {
            **asked, "output_type": "multiple_choice", "doc_to_choice": ["A", "B", "C", "D"], "metric_list": right
        },
        "nano_said": {
            **asked, "output_type": "generate_until", "doc_to_target": "letter", "generation_kwargs": said,
            "metric_list": metrics(exact_match=("mean", True)), "filter_list": [{"name": "letter", **first}],
        },
        "nano_rolling": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": metrics(bits_per_byte=("bits_per_byte", False)),
        },
    }  # fmt: skip
    for name, task in tasks.items():
        file = folder / f"{'text' if name == 'nano_rolling' else 'quiz'}.jsonl"
        data = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**whole, "metadata": {"version": 0}}))
    return folder


def samples(folder, task):
    """Return the rows of the one file of samples of a task."""
    (file,) = folder.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]
