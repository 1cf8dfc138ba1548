"""The mean of several runs' routers: one router of several seeds, which trains nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.nn import functional

from moe_tune.base.checkpoint_folder import CONFIG, read_checkpoint
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.found import found_checkpoint
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.base.trusted import guarded_imports, refuse_foreign
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead

SAME = "give runs that differ in their seed alone."


class MeanOfRuns(RouterHead):
    """Routes by the mean of the router weights that several runs have trained, seed by seed; nothing is trained.

    Formula: ``z = W h + (W' - W) h`` with ``W' = mean_s W_s`` per layer, ``W_s`` the weight that run s routes with. Of
    one run it is that run's router, frozen: to be evaluated within another head, such as ``Guard`` or ``Strength``. It
    does not start as the pretrained router but where the runs have ended. The runs' folders are read whenever a model
    is loaded.

    Args:
        runs: Runs by folder or bare name, whose best checkpoint is taken, or folders of checkpoints; at least one.

    Shape:
        - ``weight_ED``: W', (E, D), a frozen buffer.
        - output ``logits_TE``: (T, E).

    Raises:
        ConfigError: There is no run, the runs differ in head, layers, scope or base model, one has no router in the
            layer, or their head is no router weight.
        DataError: There is no such run.
        ModelError: A checkpoint is not what its manifest says.

    Reference:
        Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482, the uniform soup; of routers alone this
        project's. The paper was not read for this: its greedy soup, which leaves out models by validation, is left out.
    """

    weight_ED: Tensor
    traits = HeadTraits(exact_start=False, foldable=True, reason="starts where the runs have ended")

    def __init__(self, runs: list[str]) -> None:
        super().__init__()
        require(bool(runs), "at least one run", runs, "head.runs", "--model.head.runs '[runs/ONE, runs/OTHER]'.")
        self.runs = runs

    def bind(self, gate: BaseGate) -> None:
        """Read the runs, and take the mean of what they route with in this layer."""
        trained = [_Trained.read(run) for run in self.runs]
        for one in trained[1:]:
            one.refuse_other_than(trained[0])
        self.made_for = trained[0].fingerprint
        weight_ED = torch.stack([one.weight(gate).double() for one in trained]).mean(0).float()
        self.register_buffer("weight_ED", weight_ED.to(gate.weight_ED.device))
        # In a tuple, so that the model's own weight is not a tensor of this head: it stays out of its checkpoints.
        self.pretrained = (gate.weight_ED,)

    def router_weight(self, weight_ED: Tensor) -> Tensor:
        return weight_ED.float() + self.weight_ED - self.pretrained[0].detach().float()

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        change_ED = self.weight_ED - self.pretrained[0].detach()
        return logits_TE + functional.linear(hidden_TD.to(logits_TE.dtype), change_ED.to(logits_TE.dtype))


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """What a run has trained: its head as configured, and its tensors by checkpoint name."""

    run: str
    head: Any
    scope: str
    fingerprint: str
    state: dict[str, Tensor]

    @classmethod
    def read(cls, run: str) -> "_Trained":
        folder = found_checkpoint(run)
        kept, asked = read_checkpoint(folder), load_yaml(Path(folder) / CONFIG)["model"]
        refuse_foreign({"model": asked}, str(folder / CONFIG))
        if asked.get("peft"):
            hint = "a mean of routers leaves it out; give runs without model.peft."
            raise ConfigError(f"expected runs without a LoRA but got one (head.runs, {run}). Hint: {hint}")
        return cls(run, asked["head"], asked["scope"], kept["base"]["fingerprint"], kept["state_dict"])

    @property
    def layers(self) -> list[int]:
        return sorted({int(name.split(".")[1]) for name in self.state})

    def refuse_other_than(self, first: "_Trained") -> None:
        """Refuse a run that is not another seed of the first one."""
        for what in ("head", "layers", "scope", "fingerprint"):
            wanted, came = getattr(first, what), getattr(self, what)
            said = "base model of fingerprint" if what == "fingerprint" else what
            where = f"head.runs, {self.run}, against {first.run}"
            require(came == wanted, f"the same {said} in all runs, {wanted!r},", came, where, SAME)

    def weight(self, gate: BaseGate) -> Tensor:
        """Return the weight that the run routes with in a layer."""
        hint = f"--model.layers '{self.layers}'."
        require(gate.layer in self.layers, f"layers of {self.layers}", gate.layer, f"head.runs, {self.run}", hint)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--head", type=RouterHead)
        with guarded_imports(concrete_subclasses(RouterHead).values()):
            made: RouterHead = parser.instantiate_classes(parser.parse_object({"head": self.head})).head
        bound = made.bound_to(replace(gate, weight_ED=gate.weight_ED.detach()))
        own = f"layers.{gate.layer}."
        given = {name.removeprefix(own): value for name, value in self.state.items() if name.startswith(own)}
        mine = bound.state_dict()
        came, wanted = ({name: tuple(one.shape) for name, one in state.items()} for state in (given, mine))
        require(came == wanted, f"router tensors of this base model, {wanted},", came, f"head.runs, {self.run}", SAME)
        for name, value in given.items():
            mine[name].copy_(value)
        with torch.no_grad():
            weight_ED = bound.router_weight(gate.weight_ED)
        beside = bound.changes_selection() or bound.changes_weights() or bound.traits.variable_k or bound.bars_experts()
        if weight_ED is None or beside:
            raise ConfigError(
                f"expected runs whose head is a router weight but got {type(made).__name__} (head.runs, {self.run}). "
                "Hint: RetunedHead and LowRankHead are, and a Stack of such."
            )
        return weight_ED
