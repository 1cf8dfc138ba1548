"""A loopback Hub that takes uploads: repositories are made, small files come with the commit, large ones before it."""

import base64
import hashlib
import json

from hub_server import LARGE, HubServer, Repository, _json, _send


class UploadHub(HubServer):
    """Serves and takes repositories; a request that writes needs the token.

    Attributes:
        token: The token that may write.
        private: The repositories that were made private.
    """

    def __init__(self, repositories=None, token="hf_right"):
        super().__init__(repositories or {})
        self.token, self.private, self.large = token, set(), {}

    def took(self, request, words, body):
        if request.command not in ("POST", "PUT"):
            return False
        if words[0] == "upload" and request.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == words[1]
            self.large[words[1]] = body
            _send(request, 200, b"")
            return True
        if words[:2] == ["api", "validate-yaml"]:
            _send(request, 200, _json({"errors": [], "warnings": []}))
            return True
        takes = self._taker(words)
        if takes is None:
            return False
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            _send(request, 401, _json({"error": "Invalid username or password."}))
            return True
        takes(request, words, body)
        return True

    def _taker(self, words):
        if words == ["api", "repos", "create"]:
            return self._create
        if words[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch
        if words[:2] == ["api", "models"] and len(words) == 6:
            return {"preupload": self._preupload, "commit": self._commit}.get(words[4])
        return None

    def _create(self, request, words, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        there = name in self.repositories
        if not there:
            self.repositories[name] = Repository({"0" * 40: {}}, {"main": "0" * 40})
            self.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
        _send(request, 409 if there else 200, _json({"url": f"{self.url}/{name}", "error": "it is there"}))

    def _preupload(self, request, words, body):
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        _send(request, 200, _json({"files": files}))

    def _batch(self, request, words, body):
        objects = [
            {**one, "authenticated": True, "actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        _send(request, 200, _json({"transfer": "basic", "objects": objects}))

    def _commit(self, request, words, body):
        name, branch = "/".join(words[2:4]), words[5]
        repository = self.repositories[name]
        files = dict(repository.commits[repository.branches[branch]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        repository.commits[commit], repository.branches[branch] = files, commit
        _send(request, 200, _json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit}))
