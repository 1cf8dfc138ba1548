"""The GraphQL operations about sweeps and agents."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

from moe_tune.studies.sweep_search import library
from wandb_server.operations import ENTITY
from wandb_server.store import Store, Sweep


def planned(config: dict[str, Any]) -> Iterator[dict[str, Any]] | list[dict[str, Any]]:
    """Return the points of a grid or a random sweep as W&B's own library makes them; a test lists those of others."""

    def points() -> Iterator[dict[str, Any]]:
        sweeps, runs = library(), []
        while run := sweeps.next_run(sweeps.SweepConfig(config), runs):
            runs.append(run)
            yield {key: one["value"] for key, one in run.config.items()}

    return points() if config["method"] in ("grid", "random") else []


def upsert_sweep(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Make a sweep, or change the state of one."""
    sweep = store.sweep(variables.get("id"))
    if sweep is None:
        config = yaml.safe_load(variables["config"])
        entity, project = variables.get("entityName") or ENTITY, variables.get("projectName") or "uncategorized"
        sweep = Sweep(f"sweep{len(store.sweeps)}", entity, project, config, variables["config"], planned(config))
        store.sweeps[sweep.id] = sweep
    sweep.state = variables.get("state") or sweep.state
    place = {"id": "project", "name": sweep.project, "entity": {"id": "entity", "name": sweep.entity}}
    return {"upsertSweep": {"sweep": {"name": sweep.id, "project": place}, "configValidationWarnings": []}}


def sweep_with_runs(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Describe a sweep and its runs."""
    sweep = store.sweep(variables["sweep"])
    if sweep is None:
        return {"project": {"sweep": None}}
    nodes = [
        {
            "name": run.id,
            "state": "finished" if run.complete else "running",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "exitcode": run.exit_code,
            "shouldStop": run.stop,
            "stopped": run.stop,
            "running": not run.complete,
            "failed": bool(run.exit_code),
            "summaryMetrics": json.dumps(run.summary),
            "sampledHistory": [run.history],
        }
        for run in store.runs.values()
        if run.sweep == sweep.id
    ]
    described = {"id": sweep.id, "name": sweep.id, "method": sweep.config["method"], "state": sweep.state}
    return {"project": {"sweep": described | {"config": sweep.text, "runs": {"edges": [{"node": n} for n in nodes]}}}}


def sweep_state(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say how a sweep is."""
    sweep = store.sweep(variables["sweep"])
    return {"project": {"sweep": None if sweep is None else {"state": sweep.state}}}


def create_agent(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Let an agent work for a sweep."""
    name = f"agent{len(store.agents)}"
    store.agents[name] = variables["sweep"]
    return {"createAgent": {"agent": {"id": name}}}


def heartbeat(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Tell an agent what to do next: stop runs, start one if it has none, leave when there is nothing left."""
    sweep = store.sweeps[store.agents[variables["id"]]]
    live = json.loads(variables.get("runState") or "{}")
    commands = [{"type": "stop", "run_id": run} for run in live if run in store.runs and store.runs[run].stop]
    if not live and sweep.state == "RUNNING":
        commands = [_next_run(sweep)]
    elif sweep.state in ("FINISHED", "CANCELED"):
        commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}


def _next_run(sweep: Sweep) -> dict[str, Any]:
    following = list(islice(sweep.planned, 1))
    if isinstance(sweep.planned, list):
        del sweep.planned[:1]
    if not following:
        sweep.state = "FINISHED"
        return {"type": "exit"}
    run = f"{sweep.id}run{len(sweep.given)}"
    sweep.given[run] = following[0]
    args = {key: {"value": value} for key, value in following[0].items()}
    return {"type": "run", "run_id": run, "program": sweep.config.get("program"), "args": args}


OPERATIONS = {
    "UpsertSweep": upsert_sweep,
    "SweepWithRuns": sweep_with_runs,
    "GetSweepState": sweep_state,
    "CreateAgent": create_agent,
    "Heartbeat": heartbeat,
    "GetDefaultEntity": lambda store, variables: {"viewer": {"id": "VXNlcjox", "defaultEntity": {"name": ENTITY}}},
}
