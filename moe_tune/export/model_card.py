"""The model card of an export: what people and the Hub read of it."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from moe_tune.export.card import RouterCard
from moe_tune.reports.table import Cell, Column, Table, interval, numbers

CODE = """```python
from moe_tune import load_card

gated = load_card({where})
```"""
TAGS = ["moe_tune", "mixture-of-experts", "router"]


def readme_of_card(card: RouterCard) -> str:
    """Return the model card of a router card, with the metadata of the Hub (``model-index``)."""
    asked, base = card.settings, card.settings["base"]
    given = ", 'FOLDER OF THE BASE MODEL'" if base["source"] == "folder" else ""
    adapter = "" if asked["peft"] is None else " A LoRA stands beside it (`model.peft`), with its tensors."
    return "\n".join(
        [
            _metadata(card, [*TAGS, "router-card"]),
            f"# {asked['name']}: a router card",
            "",
            f"`{head_name(card)}` on layers {asked['layers']} of {base_name(base)}, acting on "
            f"{'the answer token' if asked['scope'] == 'answer' else 'every token'}.{adapter} The base model's weights "
            "are not in it, and it fits no other model: its tensors are checked before the head is put on.",
            "",
            CODE.format(where=f"'THIS FOLDER'{given}"),
            "",
            f"The base model: fingerprint `{base['fingerprint']}` in {base['dtype']}. Routing in "
            f"{asked['routing_dtype']}. `card.json` has all of it, and sha256 of every file; changed, it is refused.",
            "",
            "## What the run recorded",
            "",
            *_recorded(card),
            "",
        ]
    )


def readme_of_fold(card: RouterCard, effect: Table | None, gates: int) -> str:
    """Return the model card of a stock checkpoint that a head was folded into."""
    told = "What it changes was not measured." if effect is None else f"{effect.markdown()}\n\n{effect.caption}"
    return "\n".join(
        [
            _metadata(card, TAGS, with_results=False),
            f"# {card.settings['name']}, folded",
            "",
            f"{base_name(card.settings['base'])} with the weights of {gates} routers replaced: `{head_name(card)}` was "
            "folded into them. All other tensors are those of the base model, bit for bit. It is loaded like any other "
            "checkpoint, by `AutoModelForCausalLM.from_pretrained`; it acts on every token.",
            "",
            "## What folding changes",
            "",
            told,
            "",
            "## What the run recorded before it was folded",
            "",
            *_recorded(card),
            "",
        ]
    )


def head_name(card: RouterCard) -> str:
    """Return the name of a card's head class."""
    return str(card.settings["head"]["class_path"]).rpartition(".")[2]


def base_name(base: dict[str, Any]) -> str:
    """Return the words for a card's base model."""
    at = f" at {base['revision']}" if base["revision"] else ""
    kind = {"folder": "the model of a folder called ", "random": "a random model, "}.get(base["source"], "")
    return f"{kind}{base['path']}{at}"


def metric_table(card: RouterCard) -> Table:
    """Return what the run recorded, one row per split."""
    rows = card.metrics
    return Table(
        [
            Column("split", [Cell(one["split"]) for one in rows], left=True),
            numbers("n", [one["n"] for one in rows]),
            numbers("acc. %", [one["accuracy"] for one in rows], ".1f", 100),
            numbers("pretrained", [one["pretrained_accuracy"] for one in rows], ".1f", 100),
            numbers("points", [one["difference"] for one in rows], "+.1f", 100),
            Column("95 % interval", [Cell(ends(one)) for one in rows]),
            Column("decision", [Cell(one["decision"]) for one in rows], left=True),
        ]
    )


def ends(metric: dict[str, Any]) -> str:
    """Return the interval of a split's difference, in points."""
    low, high = metric["ci95"]
    return interval(low, high, "+.1f")


def _recorded(card: RouterCard) -> list[str]:
    if not card.metrics:
        return ["Nothing of this checkpoint."]
    return [
        metric_table(card).markdown(),
        "",
        "Accuracy of the tuned and the pretrained router, and the difference in points, question by question; "
        f"interval: {card.metrics[0]['method']}. The checkpoint may have been chosen on validation, "
        "whose row then says more than it should.",
    ]


def _metadata(card: RouterCard, tags: list[str], *, with_results: bool = True) -> str:
    base = card.settings["base"]
    results = [
        EvalResult(
            task_type="question-answering",
            task_name="multiple choice",
            dataset_type=str(one["dataset_revision"] or one["dataset"]).partition("@")[0],
            dataset_name=f"{one['dataset']} ({one['protocol']})",
            dataset_split=one["split"],
            dataset_revision=str(one["dataset_revision"]),
            metric_type=kind,
            metric_name=name,
            metric_value=round(100 * one[key], 4),
            metric_args={"n": one["n"], **more},
        )
        for one in card.metrics
        for kind, name, key, more in (
            ("accuracy", "accuracy, %", "accuracy", {}),
            (
                "accuracy",
                "difference from the pretrained router, points, paired",
                "difference",
                {"ci95": [round(100 * end, 4) for end in one["ci95"]], "method": one["method"]},
            ),
        )
    ]
    data = ModelCardData(
        base_model=base["path"] if base["source"] == "hub" else None,
        library_name="moe_tune" if with_results else "transformers",
        tags=tags,
        model_name=card.settings["name"] if with_results else None,
        eval_results=results if with_results and results else None,
    )
    return f"---\n{data.to_yaml()}\n---\n"
