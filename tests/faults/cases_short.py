"""The cases that come with the program: what ``doctor --selftest`` tries."""

from moe_tune.faults.short import short_cases

CASES = short_cases()
