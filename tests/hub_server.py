"""A stand-in for the Hugging Face Hub: an HTTP server on this machine that keeps repositories in memory.

It answers what `huggingface_hub` asks for when a model is pushed, listed and pulled, as the Hub's API does: large
files go through Git LFS, everything else inside the commit. Only the parts that these calls use are there.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub

USER, TOKEN = "tester", "hf_test_token"
OTHER_USER = "somebody"
LFS_BYTES = 10_000_000


@dataclass
class Repository:
    """A model repository: its commits in order, each a full tree {path: bytes}."""

    private: bool
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    lfs: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{message}{sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, message, files))
        return oid

    def tree(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for oid, _, files in reversed(self.commits):
            if revision in ("main", oid):
                return oid, files
        return None


class Hub:
    """The state of the server.

    Attributes:
        repositories: by `namespace/name`.
        requests: method and path of every request, in order.
        max_bytes: the upload of a larger file is answered with status 413.
        may_create: whether the user's token has the right to make repositories.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.max_bytes = 10**12
        self.may_create = True
        self.address = ""


def blob_id(content: bytes) -> str:
    """Git's own name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b""
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, function in ROUTES:
            if method in (self.command, "ANY") and (match := re.fullmatch(pattern, path)):
                return function(self, *match.groups())
        return self._json({"error": f"no such address: {path}"}, 404)

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return USER if token == TOKEN else None

    def _json(self, record, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(record).encode(), status, {"Content-Type": "application/json", **headers})

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._json({"error": message}, status, **headers)

    def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, name: str, *, write: bool = False) -> Repository | None:
        """The repository, if the user may see it (and write to it); an error is sent where not."""
        repository, user = self.hub.repositories.get(name), self._user()
        if write and user is None:
            self._error(401, "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and user != name.split("/")[0]):
            self._error(404 if user else 401, "Repository not found", "RepoNotFound")
        elif write and user != name.split("/")[0]:
            self._error(403, "You do not have write access")
        else:
            return repository
        return None

    def whoami(self) -> None:
        user = self._user()
        self._json({"type": "user", "name": user}) if user else self._error(401, "Invalid credentials")

    def create(self) -> None:
        wanted = json.loads(self.body)
        user = self._user()
        namespace = wanted.get("organization") or user
        name = f"{namespace}/{wanted['name']}"
        if user is None:
            self._error(401, "Invalid credentials in Authorization header")
        elif namespace != user or not self.hub.may_create:
            self._error(403, f"You don't have the rights to create a model under the namespace {namespace!r}")
        elif name in self.hub.repositories:
            self._error(409, "You already created this model repo")
        else:
            repository = Repository(private=wanted.get("visibility") == "private" or wanted.get("private") is True)
            repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.hub.repositories[name] = repository
            self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        errors = [] if "license:" in text else [{"message": '"license" is required'}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        if (repository := self._repository(name, write=True)) is None:
            return
        answers = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            large = wanted["size"] > LFS_BYTES or path.endswith(".safetensors")
            content = repository.files.get(path)
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if content is None or large else blob_id(content),
                }
            )
        self._json({"files": answers})

    def lfs_batch(self, name: str) -> None:
        if self._repository(name, write=True) is None:
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.uploads:
                href = f"{self.hub.address}/lfs/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if len(self.body) > self.hub.max_bytes:
            self._error(413, "Payload Too Large")
        elif hashlib.sha256(self.body).hexdigest() != oid:
            self._error(400, "the content is not what was announced")
        else:
            self.hub.uploads[oid] = self.body
            self._json({})

    def lfs_verify(self, oid: str) -> None:
        self._json({}, 200 if oid in self.hub.uploads else 404)

    def commit(self, name: str, revision: str) -> None:
        if (repository := self._repository(name, write=True)) is None:
            return
        files, message = dict(repository.files), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
                repository.lfs.add(value["path"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(message, files)
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid, "hookOutput": ""})

    def info(self, name: str, revision: str | None = None) -> None:
        if (repository := self._repository(name)) is None:
            return
        if (found := repository.tree(revision or "main")) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        oid, files = found
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": name, "modelId": name, "sha": oid, "private": repository.private, "siblings": siblings})

    def tree(self, name: str, revision: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        if (found := repository.tree(revision)) is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        entries = []
        for path, content in found[1].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
            if path in repository.lfs:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        found = repository.tree(revision)
        if found is None or path not in found[1]:
            code = "RevisionNotFound" if found is None else "EntryNotFound"
            self._error(404, f"{path} is not there", code)
            return
        content = found[1][path]
        etag = hashlib.sha256(content).hexdigest() if path in repository.lfs else blob_id(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": found[0], "Content-Type": "application/octet-stream"}
        self._send(content, 200, headers)


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", HubHandler.whoami),
    ("POST", "/api/repos/create", HubHandler.create),
    ("POST", "/api/validate-yaml", HubHandler.validate_yaml),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", HubHandler.preupload),
    ("POST", f"/{NAME}[.]git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", HubHandler.lfs_upload),
    ("POST", "/lfs/([0-9a-f]{64})/verify", HubHandler.lfs_verify),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", HubHandler.commit),
    ("GET", f"/api/models/{NAME}", HubHandler.info),
    ("GET", f"/api/models/{NAME}/revision/([^/]+)", HubHandler.info),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)", HubHandler.tree),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", HubHandler.resolve),
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", HubHandler.resolve),
]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a free port of this machine while the block lasts; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub with the user `tester` and no repositories, at `hub.address`."""
    hub = Hub()
    with serving(type("Handler", (HubHandler,), {"hub": hub})) as address:
        hub.address = address
        yield hub


@contextmanager
def readable_hub(monkeypatch, cache: Path) -> Iterator[Hub]:
    """As [`running_hub`], and what is loaded by a Hub id comes from it, without a token and into an empty cache."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def put_folder(hub: Hub, name: str, folder: Path, *, private: bool = False, under: str = "") -> str:
    """A folder's files as a new commit of a repository, which is made if needed; gives the commit."""
    repository = hub.repositories.setdefault(name, Repository(private=private))
    files = {f"{under}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return repository.commit(f"commit {len(repository.commits)}", files)
