"""Adding a head is adding one file: the README's own, taken from its text, trains and is listed with no other edit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import TINY, manifest

ROOT = Path(__file__).parents[2]
LAWS = """
    an_exact_start_is_exact an_exact_start_is_exact_in_half_precision
    gradient_reaches_the_declared_parameters_and_no_other state_survives_a_round_trip a_foreign_state_is_refused
    padding_changes_nothing renaming_the_experts_renames_the_choices the_order_of_questions_does_not_matter
    experts_implementations_agree mass_is_kept_where_that_is_claimed
    training_decides_as_evaluation_does_unless_that_is_declared what_acts_in_training_alone_leaves_evaluation_alone
    tokens_outside_the_scope_keep_the_pretrained_decision decisions_are_well_formed
    gradient_checkpointing_changes_nothing a_half_precision_body_works a_prototype_can_be_copied_and_sent
    what_is_drawn_at_the_start_does_not_depend_on_the_default_device
    calibration_acts_where_it_is_declared a_foldable_head_is_a_linear_router a_head_folds_exactly_or_says_why_not
    documentation_is_complete
"""
"""What the suite must have asked of the head."""


def readme_head():
    """Return the Python of the README's section on a head in one file."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## My own head in one file")[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def in_a_process(program, *arguments):
    """Run a program in a process of its own, so that the class is unknown to every other test."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


LIST_AND_FIT = """
import json, sys
from moe_tune.cli.main import main
plugin = ["--plugins", sys.argv[1]]
sys.exit(main([*plugin, "list", "heads", "--format", "json"]) or main([*plugin, "fit", *sys.argv[2:]]))
"""
ASK_EVERY_LAW = """
import importlib.util, sys
sys.path.insert(0, sys.argv[2])
name = "moe_tune.heads.gain"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
held = ["-k", "GainHead", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist"]
sys.exit(pytest.main([sys.argv[2] + "/conformance/test_heads.py", *held]))
"""


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "gain.py"
    file.write_text(readme_head(), encoding="utf-8")
    return file


def test_the_readmes_head_is_found_by_its_name_and_runs(plugin, tmp_path):
    assert len(readme_head().splitlines()) <= 30
    words = [*TINY, "--model.head", "GainHead", "--test_after_fit", "false"]
    done = in_a_process(LIST_AND_FIT, plugin, *words, "--runs_root", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    listed, _ = json.JSONDecoder().raw_decode(done.stdout)
    (entry,) = [one for one in listed if one["name"] == "GainHead"]
    assert entry["summary"].startswith("Scales every expert")
    (run,) = (tmp_path / "runs").glob("*GainHead*")
    told = manifest(run)
    assert (told["head"], list(told["plugins"])) == ("GainHead", [str(plugin)])


@pytest.mark.slow
def test_the_readmes_head_keeps_the_laws_of_the_conformance_suite(plugin):
    """Put beside the shipped heads it is discovered; here the suite is pointed at the file instead."""
    done = in_a_process(ASK_EVERY_LAW, plugin, ROOT / "tests")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = set(re.findall(r"^PASSED \S+::test_(\w+)\[\S*GainHead", done.stdout, re.MULTILINE))
    assert passed == set(LAWS.split())
