"""The GraphQL operations about runs and files: each takes the store and the variables, and returns the reply's data."""

import json
from typing import Any

from wandb_server.store import Run, Store

ENTITY = "tester"


def viewer(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say who is logged in."""
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    person = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "email": "tester@example.org", "flags": "{}"}
    return {"viewer": person | {"teams": teams}}


def features(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say that nothing optional is there, as an old server does."""
    return {"serverInfo": {"features": []}}


def upsert_bucket(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Make or change a run."""
    name = variables.get("name") or variables["id"]
    inserted = name not in store.runs
    if inserted:
        entity, project = variables.get("entity") or ENTITY, variables.get("project") or "uncategorized"
        store.runs[name] = Run(name, entity, project)
    run = store.runs[name]
    run.fields |= {key: value for key, value in variables.items() if value is not None and key != "config"}
    run.sweep = variables.get("sweep") or run.sweep
    if variables.get("config"):
        run.config = {key: one["value"] for key, one in json.loads(variables["config"]).items() if key != "_wandb"}
    if variables.get("summaryMetrics"):
        run.add("wandb-summary.json", 0, [variables["summaryMetrics"]])
    return {"upsertBucket": {"bucket": bucket(run), "inserted": inserted}}


def bucket(run: Run) -> dict[str, Any]:
    """Return a run as replies describe it.

    Args:
        run: The run.
    """
    return {
        "id": f"storage-{run.id}",
        "name": run.id,
        "displayName": run.fields.get("displayName") or run.id,
        "description": run.fields.get("description"),
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "sweepName": run.sweep,
        "project": {"id": "project", "name": run.project, "entity": {"id": "entity", "name": run.entity}},
        "historyLineCount": len(run.streams.get("wandb-history.jsonl", [])),
    }


def resume_status(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say how far a run got, if there is one of that id."""
    run = store.runs.get(variables["name"])
    model = {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": ENTITY}, "bucket": None}
    if run is not None:
        streams = {key: run.streams.get(key, []) for key in ("wandb-history.jsonl", "wandb-events.jsonl", "output.log")}
        history, events, log = streams.values()
        model["bucket"] = bucket(run) | {
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": len(log),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }
    return {"model": model}


def create_run_files(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say where files of a run are to be put."""
    run = variables["run"]
    files = [{"name": name, "uploadUrl": f"{store.url}/storage/run/{run}/{name}"} for name in variables["files"]]
    return {"createRunFiles": {"runID": f"storage-{run}", "uploadHeaders": [], "files": files}}


def mark_run_files(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Take note that files are there."""
    return {"markRunFilesUploaded": {"success": True}}


def run_state(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say whether a run is still going."""
    run = store.runs.get(variables["run"])
    state = None if run is None else {"id": f"storage-{run.id}", "state": "finished" if run.complete else "running"}
    return {"project": {"run": state}}


OPERATIONS = {
    "Viewer": viewer,
    "ServerFeaturesQuery": features,
    "UpsertBucket": upsert_bucket,
    "RunResumeStatus": resume_status,
    "CreateRunFiles": create_run_files,
    "MarkRunFilesUploaded": mark_run_files,
    "RunState": run_state,
}
