"""A Hugging Face Hub on loopback: what the Hub's client asks for when it pushes and pulls, and faults on demand.

Two servers, as on the real Hub: the Hub itself, and a CDN on another port that holds the large files and must never be
sent a token. Large files travel by LFS, or by Xet, whose client keeps them in a folder when it is told `local://FOLDER`.
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from loopback_http import ROUTES, Fault, Reply, Request, route, serve

ALICE, BOB, ZOO, YOU = "hf_alice_0123456789", "hf_bob_0123456789", "hf_zoo_0123456789", "hf_you_0123456789"
USERS = {ALICE: "alice", BOB: "bob", ZOO: "cnnzoo", YOU: "you"}
LARGE = (".safetensors", ".png", ".bin")


@dataclass
class File:
    sha256: str
    size: int
    oid: str  # git's name for the content
    large: bool
    content: bytes | None  # None: a Xet client put it into its own store


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub:
    """The state of both servers.

    Args:
        bound: A socket bound to the port that `HF_ENDPOINT` names.
        store: Folder for the Xet client.
    """

    def __init__(self, bound: socket.socket, store: Path) -> None:
        self.lock = threading.RLock()
        self.cas = store
        self.servers = [serve("hub", self, bound), serve("cdn", self, None)]
        self.url, self.cdn_url = ("http://{}:{}".format(*s.server_address) for s in self.servers)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.over = threading.Event()  # ends the stalls

    def close(self) -> None:
        self.over.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    # -- what tests do -------------------------------------------------------------------------------------------------

    def fault(self, name: str, kind: Any, times: float = 1, at: int = 0, only: str = "") -> None:
        assert any(name == r[0] for r in ROUTES), name
        self.faults.append(Fault(name, kind, times, at, only))

    def put(self, repo_id: str, files: Path | dict[str, bytes], branch: str = "main", **flags: bool) -> str:
        """Replaces what a branch holds by the files of a folder, without any client; returns the commit."""
        if isinstance(files, Path):
            files = {p.name: p.read_bytes() for p in files.iterdir()}
        repo = self.repos.setdefault(repo_id, Repo(**flags))
        return self.commit(repo, branch, {name: self.file(name, content) for name, content in files.items()})

    def names(self, repo_id: str, branch: str = "main") -> set[str]:
        repo = self.repos[repo_id]
        return set(repo.commits[repo.branches[branch]])

    def read(self, repo_id: str, name: str, branch: str = "main") -> bytes:
        repo = self.repos[repo_id]
        return repo.commits[repo.branches[branch]][name].content

    def routes(self) -> list[str]:
        return [r.route for r in self.requests]

    # -- the state -----------------------------------------------------------------------------------------------------

    def file(self, name: str, content: bytes) -> File:
        digest, large = hashlib.sha256(content).hexdigest(), name.endswith(LARGE)
        if large:
            self.store[digest] = content
        return File(digest, len(content), git_oid(content), large, content)

    def commit(self, repo: Repo, branch: str, files: dict[str, File]) -> str:
        # The client keeps listings by commit, so a name may never come again.
        sha = hashlib.sha1(f"{time.time_ns()} {os.urandom(8).hex()}".encode()).hexdigest()
        repo.commits[sha] = files
        repo.branches[branch] = sha
        return sha

    def user(self, token: str | None) -> str | None:
        if token is None:
            return None
        if token not in USERS:
            raise Reply(401, {"error": "bad token"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        return USERS[token]

    def repo(self, repo_id: str, token: str | None, write: bool = False) -> Repo:
        user, repo, owner = self.user(token), self.repos.get(repo_id), repo_id.split("/")[0]
        if repo is None or (repo.private and user != owner):
            raise Reply(401 if user is None else 404, b"", {"X-Error-Code": "RepoNotFound"})
        if write and user != owner:
            raise Reply(403, {"error": "forbidden"}, {"X-Error-Message": "You have no write access"})
        return repo

    def find(self, repo: Repo, revision: str) -> tuple[str, dict[str, File]]:
        sha = repo.branches.get(unquote(revision), unquote(revision))
        if sha not in repo.commits:
            raise Reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return sha, repo.commits[sha]

    def xet_hashes(self) -> dict[str, str]:
        """sha256 to Xet's own hash, from the client's shards."""
        found = {}
        for shard in (self.cas / "xet" / "xorbs" / "shards").glob("*.mdb"):
            data, at = shard.read_bytes(), 48
            while data[at : at + 32] != b"\xff" * 32:
                name = "".join(f"{n:016x}" for n in struct.unpack_from("<4Q", data, at))
                flags, entries = struct.unpack_from("<II", data, at + 32)
                at += 48 + 48 * entries * (2 if flags >> 31 else 1)
                if flags >> 30 & 1:
                    digest = "".join(f"{n:016x}" for n in struct.unpack_from("<4Q", data, at))
                    found[digest] = name
                    at += 48
        return found

    # -- the Hub's routes ----------------------------------------------------------------------------------------------

    @route("whoami", "GET", "/api/whoami-v2")
    def whoami(self, call):
        if (user := self.user(call.token)) is None:
            raise Reply(401)
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    @route("create", "POST", "/api/repos/create")
    def create(self, call):
        user, asked = self.user(call.token), json.loads(call.body)
        owner = asked.get("organization") or user
        if user is None:
            raise Reply(401, {"error": "log in"}, {"X-Error-Message": "Invalid username or password."})
        if user != owner:
            raise Reply(403, {"error": "forbidden"}, {"X-Error-Message": f"You cannot create repositories of {owner}"})
        repo_id = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.url}/{repo_id}"}
        if repo_id in self.repos:
            raise Reply(409, answer)
        self.put(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=asked.get("visibility") == "private")
        return answer

    @route("validate", "POST", "/api/validate-yaml")
    def validate(self, call):
        return {"errors": [], "warnings": []}

    @route("branch", "POST", "/api/models/ID/branch/REV")
    def branch(self, call, repo_id, revision):
        repo = self.repo(repo_id, call.token, write=True)
        if unquote(revision) in repo.branches:
            raise Reply(409, {"error": "exists"})
        start = json.loads(call.body or b"{}").get("startingPoint", "main")
        repo.branches[unquote(revision)] = self.find(repo, start)[0]
        return {}

    @route("preupload", "POST", "/api/models/ID/preupload/REV")
    def preupload(self, call, repo_id, revision):
        _, held = self.find(self.repo(repo_id, call.token, write=True), revision)
        answer = []
        for asked in json.loads(call.body)["files"]:
            path, old = asked["path"], held.get(asked["path"])
            large = path.endswith(LARGE)
            oid = old and (old.sha256 if old.large else old.oid)
            answer.append(dict(path=path, uploadMode="lfs" if large else "regular", shouldIgnore=False, oid=oid))
        return {"files": answer}

    @route("xet-token", "GET", "/api/models/ID/xet-(?P<kind>read|write)-token/REV")
    def xet_token(self, call, repo_id, kind, revision):
        self.repo(repo_id, call.token, write=kind == "write")
        expires = str(int(time.time()) + 3600)
        headers = {"X-Xet-Cas-Url": f"local://{self.cas}", "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": expires}
        raise Reply(200, {"casUrl": headers["X-Xet-Cas-Url"], "accessToken": "xet", "exp": int(expires)}, headers)

    @route("lfs-batch", "POST", "/ID.git/info/lfs/objects/batch")
    def lfs_batch(self, call, repo_id):
        self.repo(repo_id, call.token, write=True)
        objects = []
        for item in json.loads(call.body)["objects"]:
            entry = dict(oid=item["oid"], size=item["size"])
            if item["oid"] not in self.store:
                verify = f"{self.url}/{repo_id}.git/info/lfs/verify"
                entry["actions"] = dict(upload=dict(href=f"{self.cdn_url}/{item['oid']}"), verify=dict(href=verify))
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    @route("lfs-verify", "POST", "/ID.git/info/lfs/verify")
    def lfs_verify(self, call, repo_id):
        self.repo(repo_id, call.token, write=True)
        raise Reply(200 if json.loads(call.body)["oid"] in self.store else 404)

    @route("commit", "POST", "/api/models/ID/commit/REV")
    def make_commit(self, call, repo_id, revision):
        repo = self.repo(repo_id, call.token, write=True)
        head, held = self.find(repo, revision)
        held = dict(held)
        for line in call.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                raise Reply(412, {"error": "stale parent"}, {"X-Error-Message": "The branch has moved"})
            elif key == "file":
                held[value["path"]] = self.file(value["path"], base64.b64decode(value["content"]))
            elif key == "lfsFile":
                content = self.store.get(value["oid"])
                if content is None and value["oid"] not in self.xet_hashes():
                    raise Reply(400, {"error": f"{value['oid']} was never uploaded"})
                held[value["path"]] = File(value["oid"], value["size"], value["oid"][:40], True, content)
            elif key == "deletedFile":
                del held[value["path"]]
        sha = self.commit(repo, unquote(revision), held)
        return {"commitOid": sha, "commitUrl": f"{self.url}/{repo_id}/commit/{sha}"}

    @route("info", "GET", "/api/models/ID(?:/revision/REV)?")
    def info(self, call, repo_id, revision):
        repo = self.repo(repo_id, call.token)
        sha, held = self.find(repo, revision or "main")
        siblings = []
        for name, f in held.items():
            lfs = dict(sha256=f.sha256, size=f.size, pointerSize=130) if f.large else None
            siblings.append(dict(rfilename=name, size=f.size, blobId=f.oid, **(dict(lfs=lfs) if lfs else {})))
        return dict(id=repo_id, sha=sha, private=repo.private, gated=repo.gated, tags=[], downloads=0, siblings=siblings)

    @route("refs", "GET", "/api/models/ID/refs")
    def refs(self, call, repo_id):
        branches = self.repo(repo_id, call.token).branches.items()
        found = [dict(name=name, ref=f"refs/heads/{name}", targetCommit=sha) for name, sha in branches]
        return dict(branches=found, tags=[], converts=[])

    @route("tree", "GET", "/api/models/ID/tree/REV")
    def tree(self, call, repo_id, revision):
        _, held = self.find(self.repo(repo_id, call.token), revision)
        hashes, answer = self.xet_hashes(), []
        for name, f in held.items():
            entry = dict(type="file", path=name, oid=f.oid, size=f.size)
            if f.large:
                entry["lfs"] = dict(oid=f.sha256, size=f.size, pointerSize=130)
            if f.large and f.sha256 in hashes:
                entry["xetHash"] = hashes[f.sha256]
            answer.append(entry)
        return answer

    def _readable(self, call, repo_id: str, revision: str, path: str) -> tuple[str, File]:
        repo = self.repo(repo_id, call.token)
        if repo.gated and self.user(call.token) != repo_id.split("/")[0]:
            raise Reply(403, b"", {"X-Error-Code": "GatedRepo"})
        sha, held = self.find(repo, revision)
        if unquote(path) not in held:
            raise Reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        return sha, held[unquote(path)]

    @route("head", "HEAD", "/ID/resolve/REV/PATH")
    @route("get", "GET", "/ID/resolve/REV/PATH")
    def resolve(self, call, repo_id, revision, path):
        sha, f = self._readable(call, repo_id, revision, path)
        if not f.large:
            raise Reply(307, b"", {"Location": f"/api/resolve-cache/models/{repo_id}/{sha}/{path}", "X-Repo-Commit": sha})
        headers = {"Location": f"{self.cdn_url}/{f.sha256}", "X-Repo-Commit": sha}
        headers |= {"X-Linked-Etag": f'"{f.sha256}"', "X-Linked-Size": str(f.size)}
        if f.content is None:
            refresh = f"{self.url}/api/models/{repo_id}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": self.xet_hashes()[f.sha256], "Link": f'<{refresh}>; rel="xet-auth"'}
        raise Reply(302, b"", headers)

    @route("small-head", "HEAD", "/api/resolve-cache/models/ID/REV/PATH")
    @route("small", "GET", "/api/resolve-cache/models/ID/REV/PATH")
    def small(self, call, repo_id, revision, path):
        sha, f = self._readable(call, repo_id, revision, path)
        raise Reply(200, f.content, {"ETag": f'"{f.oid}"', "X-Repo-Commit": sha})

    # -- the CDN's -----------------------------------------------------------------------------------------------------

    @route("cdn", "GET", "/(?P<digest>[0-9a-f]{64})")
    def download(self, call, digest):
        content, headers = self.store[digest], {"ETag": f'"{digest}"'}
        if match := re.match(r"bytes=(\d+)-", call.headers.get("Range", "")):
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            raise Reply(206, content[start:], headers)
        raise Reply(200, content, headers)

    @route("lfs-put", "PUT", "/(?P<digest>[0-9a-f]{64})")
    def upload(self, call, digest):
        if hashlib.sha256(call.body).hexdigest() != digest:
            raise Reply(400, b"the content is not what its name says")
        self.store[digest] = call.body
        raise Reply(200)
