"""What lm-eval found, as one small table, and the commands that compare its samples."""

from collections.abc import Sequence

from moe_tune.compare.lm_eval_samples import METRIC, OTHERS, group_of
from moe_tune.harness.evaluation import EvaluatedArm
from moe_tune.reports.table import Column, Table, numbers, words

BETTER = {True: "higher", False: "lower"}
CAPTION = (
    "Metrics as lm-eval makes them, over the documents of a task; base: the same model without heads. Differences have "
    "no interval here: compare pairs the documents."
)


def metrics_table(arms: Sequence[EvaluatedArm]) -> Table:
    """Return the table: a row per task, or group of tasks, and metric, a column per model; the first is the base.

    Args:
        arms: What lm-eval found of each model; the tasks are the same.
    """
    first = arms[0].results
    rows = [
        (task, key)
        for task, found in first["results"].items()
        for key, value in found.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    ]
    better = [first["higher_is_better"].get(task, {}).get(key.partition(",")[0]) for task, key in rows]
    columns: list[Column] = [
        words("task", [task for task, _ in rows]),
        words("metric", [key.removesuffix(",none").replace(",", ", ") for _, key in rows]),
        words("better", [BETTER.get(one, "") for one in better]),
    ]
    for place, arm in enumerate(arms):
        heading = "base" if not place else "tuned" if len(arms) == 2 else arm.name
        columns.append(numbers(heading, [arm.results["results"][task][key] for task, key in rows], ".4f"))
    columns.append(numbers("n", [first["results"][task].get("sample_len") for task, _ in rows]))
    return Table(columns, CAPTION, "lm-eval")


def compare_commands(arms: Sequence[EvaluatedArm]) -> list[str]:
    """Return the commands that compare samples in pairs, for the tasks that say right or wrong of each document.

    Args:
        arms: What lm-eval found of each model, the base first.
    """
    found = arms[0].results["results"]
    told = [
        task
        for task in arms[0].samples
        if any(key.partition(",")[0] in (METRIC, *OTHERS) for key in found[task] if "," in key)
    ]
    command = "python -m moe_tune compare"
    if len(told) > 1 and set(told) == set(arms[0].samples) and group_of(dict(arms[0].samples)):
        return [" ".join([command, *(str(next(iter(arm.samples.values())).parent) for arm in arms)])]
    return [" ".join([command, *(str(arm.samples[task]) for arm in arms)]) for task in told]
