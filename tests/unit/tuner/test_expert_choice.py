"""Which experts a LoRA trains: the most used, the most accurate, those of a file, or any."""

import pandas as pd
import pytest
from made_up import layer_table

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.models.expert_subset import ExpertSubset
from moe_tune.tuner.expert_choice import chosen_experts


def chosen(by, share=0.25, tables=None, **more):
    return chosen_experts(ExpertSubset(by, share, **more), [0, 2], 8, {0: layer_table(), 2: layer_table()})


def test_usage_takes_the_most_chosen():
    table = layer_table()
    largest = table.chosen_E.topk(2).indices.sort().values.tolist()
    assert chosen("usage") == {0: largest, 2: largest}


def test_accuracy_takes_those_that_do_better_than_their_layer():
    """The made-up experts answer the better the higher their number."""
    assert chosen("accuracy") == {0: [6, 7], 2: [6, 7]}


def test_experts_that_nothing_is_known_of_come_by_how_much_they_are_used():
    few = layer_table(questions=60)
    assert int(few.chosen_E.max()) < 30
    subset = ExpertSubset("accuracy", 0.25)
    assert chosen_experts(subset, [0], 8, {0: few}) == chosen_experts(ExpertSubset("usage", 0.25), [0], 8, {0: few})


def test_chance_is_the_same_for_a_seed_and_differs_between_layers():
    assert chosen("random", seed=3) == chosen("random", seed=3)
    assert len({str(chosen("random", 0.5, seed=seed)) for seed in range(5)}) > 1
    several = [chosen("random", 0.5, seed=seed) for seed in range(8)]
    assert any(one[0] != one[2] for one in several)


def test_a_file_says_it(tmp_path):
    rows = [
        {"layer": layer, "expert": expert, "effect": (expert * 3) % 8} for layer in (0, 1, 2) for expert in range(8)
    ]
    file = tmp_path / "effects.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    assert chosen("table", table=str(file)) == {0: [2, 5], 2: [2, 5]}
    with pytest.raises(DataError, match=r"\['kl'\] are missing"):
        chosen("table", table=str(file), column="kl")
    pd.DataFrame(rows[:-1]).to_parquet(tmp_path / "less.parquet")
    with pytest.raises(DataError, match="each of 8 experts of layer 2 but got 7"):
        chosen("table", table=str(tmp_path / "less.parquet"))
    with pytest.raises(ConfigError, match=r"a file \.csv or \.parquet"):
        chosen("table", table=str(tmp_path / "none.csv"))


def test_of_effects_those_come_first_whose_masking_takes_most_and_only_training_questions_count(tmp_path):
    effects = [-0.1, 0.2, -0.3, 0.0, 0.1, -0.2, 0.3, -0.05]
    rows = [{"layer": layer, "expert": one, "log_prob": effects[one]} for layer in (0, 2) for one in range(8)]
    file = tmp_path / "experts.parquet"
    pd.DataFrame(rows).assign(split="train").to_parquet(file)
    assert chosen("effect", table=str(file)) == {0: [2, 5], 2: [2, 5]}
    pd.DataFrame(rows).assign(split="validation").to_parquet(file)
    with pytest.raises(ConfigError, match="figures of training questions"):
        chosen("effect", table=str(file))


def test_a_minus_takes_the_smallest_as_effects_of_masking_need(tmp_path):
    """Masked without harm is 0 and above; the experts of use are below."""
    file = tmp_path / "experts.parquet"
    rows = [
        {"layer": layer, "expert": expert, "log_prob": -0.1 * (expert in (1, 6)), "split": "train"}
        for layer in (0, 2)
        for expert in range(8)
    ]
    pd.DataFrame(rows).to_parquet(file)
    assert chosen("table", table=str(file), column="-log_prob") == {0: [1, 6], 2: [1, 6]}
    pd.DataFrame(rows).assign(split="validation").to_parquet(file)
    with pytest.raises(ConfigError, match="figures of training questions"):
        chosen("table", table=str(file), column="-log_prob")


@pytest.mark.parametrize("column", ["layer", "expert", "kind"])
def test_a_column_that_says_nothing_of_an_expert_is_refused(column, tmp_path):
    rows = [{"layer": layer, "expert": expert, "kind": "mask"} for layer in (0, 2) for expert in range(8)]
    pd.DataFrame(rows).to_csv(tmp_path / "effects.csv", index=False)
    with pytest.raises(ConfigError, match="a column of numbers"):
        chosen("table", table=str(tmp_path / "effects.csv"), column=column)


@pytest.mark.parametrize("name", ["effects.csv", "effects.parquet"])
def test_a_file_that_is_none_is_one_line(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="expected a table but got"):
        chosen("table", table=str(tmp_path / name))
