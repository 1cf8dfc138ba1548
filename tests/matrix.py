"""The matrix of classes and laws: what ``make conformance`` prints."""

from collections import defaultdict

import moe_tune.heads
import moe_tune.losses
import moe_tune.metrics  # noqa: F401 (all three find their plug-ins)
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import AuxLoss
from moe_tune.metrics.base import RoutingMetric
from moe_tune.models.families import found_types

KINDS = {"head": RouterHead, "loss": AuxLoss, "metric": RoutingMetric}
REFERENCE = "agrees with a slow reference"
TYPE = "model type"
TYPES_IN = ("test_found_families.py", "test_found_runs.py")
"""Where every model type is held to the laws of its kind."""
EXEMPT, PASSED, FAILED = "-", "x", "FAIL"


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Matrix(), "classes and laws")


class Matrix:
    """Collects the outcome of every law for every class, over all its modes and families."""

    def __init__(self):
        self.classes = {
            name: kind
            for kind, base in KINDS.items()
            for name, one in concrete_subclasses(base).items()
            if one.__module__.startswith("moe_tune.")
        } | dict.fromkeys(found_types(), TYPE)
        self.cells = defaultdict(set)
        self.reasons = defaultdict(set)

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        told = dict(report.user_properties)
        law = report.nodeid.split("::")[-1].split("[")[0].removeprefix("test_").replace("_", " ")
        about = told["reference"].split() if "reference" in told else self._about(report.nodeid)
        if "reference" in told:
            law = REFERENCE
        elif "conformance/" not in report.nodeid:
            return
        for name in about:
            outcome = FAILED if report.failed else EXEMPT if "exempt" in told else PASSED
            self.cells[self.classes.get(name), name, law].add(outcome)
            if outcome == EXEMPT:
                self.reasons[name].add(f"{law}: {told['exempt']}")

    def _about(self, nodeid):
        case = nodeid.partition("[")[2].rstrip("]")
        of_types = any(file in nodeid for file in TYPES_IN)
        return [name for name in case.split("-") if name in self.classes and (self.classes[name] == TYPE) == of_types]

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        holes = []
        for kind in (*KINDS, TYPE):
            laws = sorted({law for which, _, law in self.cells if which == kind})
            write("")
            for number, law in enumerate(laws, start=1):
                write(f"{number:>3}  {law}")
            write(f"{'':<28}" + "".join(f"{number:>4}" for number in range(1, len(laws) + 1)))
            for name in sorted(one for one, which in self.classes.items() if which == kind):
                row = []
                for law in laws:
                    found = self.cells[kind, name, law]
                    mark = FAILED if FAILED in found else PASSED if PASSED in found else EXEMPT if found else ""
                    row.append(f"{mark:>4}")
                    if not mark:
                        holes.append(f"{name}: {law}")
                write(f"{name:<28}{''.join(row)}")
        write("")
        write(f"{PASSED} kept, {EXEMPT} does not bind it:")
        for name, reasons in sorted(self.reasons.items()):
            write(f"  {name}: {'; '.join(sorted(reasons))}")
        write(f"holes: {len(holes)}")
        for hole in holes:
            write(f"  {hole}")
