"""The GraphQL operations about artifacts: made, described, filled, committed, used."""

import json
from typing import Any

from wandb_server.store import Artifact, Store


def artifact_type(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say that no artifact of that name is there, so that everything is sent."""
    return {"project": {"artifact": None}}


def create(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Make a version."""
    given = variables["input"]
    version = f"artifact-{len(store.artifacts)}"
    store.artifacts[version] = Artifact(
        id=version,
        name=given["artifactCollectionName"],
        type=given["artifactTypeName"],
        run=given.get("runName") or "",
        aliases=[one["alias"] for one in given.get("aliases") or []],
        metadata=json.loads(given.get("metadata") or "{}"),
        digest=given["digest"],
    )
    artifact = {"id": version, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
    return {"createArtifact": {"artifact": artifact}}


def manifest(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say where the manifest is to be put."""
    return {"createArtifactManifest": _manifest(store, variables["artifactID"])}


def update_manifest(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say again where the manifest is to be put."""
    return {"updateArtifactManifest": _manifest(store, variables["artifactManifestID"].removeprefix("manifest-"))}


def _manifest(store: Store, artifact: str) -> dict[str, Any]:
    file = {"id": f"file-{artifact}", "uploadUrl": f"{store.url}/storage/artifact/{artifact}/wandb_manifest.json"}
    return {"artifactManifest": {"id": f"manifest-{artifact}", "file": file | {"uploadHeaders": []}}}


def create_files(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Say where the content is to be put."""
    nodes = [
        {
            "storagePath": one["name"],
            "uploadUrl": f"{store.url}/storage/artifact/{one['artifactID']}/{one['name']}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": one["artifactID"]},
        }
        for one in variables["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def commit(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """End a version."""
    artifact = store.artifacts[variables["artifactID"]]
    artifact.committed = True
    return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}


def use(store: Store, variables: dict[str, Any]) -> dict[str, Any]:
    """Record that a run read an artifact."""
    given = variables["input"]
    store.used.append((given["runName"], given["artifactID"]))
    return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}


OPERATIONS = {
    "ArtifactType": artifact_type,
    "CreateArtifact": create,
    "CreateArtifactManifest": manifest,
    "UpdateArtifactManifest": update_manifest,
    "CreateArtifactFiles": create_files,
    "CommitArtifact": commit,
    "UseArtifact": use,
    "XXHashDigestsEnabled": lambda store, variables: {"entity": {"xxhashDigestsEnabled": False}},
    "FetchArtifactDigestAlgorithm": lambda store, variables: {"project": {"artifactType": None}},
}
