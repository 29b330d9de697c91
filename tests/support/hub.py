"""A hub on this machine: a server that speaks the protocol of huggingface.co for a few files."""
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
import pytest

from data.shards import write_shard
from tests.support.data_tools import run


class Hub(ThreadingHTTPServer):
    """The part of the hub's protocol that downloads use. `files`: path to bytes, `faults`: path to list."""

    commit, daemon_threads = "c0ffee" + "0" * 34, True

    def __init__(self, repo):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.repo, self.files, self.sha256, self.faults, self.log = repo, {}, {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}/cdn/"  # another origin, as the real one
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def ranges(self, name):
        return [r for method, path, r in self.log if (method, path) == ("GET", f"/cdn/{name}")]


class HubRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, unquote(self.path.split("?")[0])
        hub.log.append((self.command, path, self.headers.get("Range")))
        if path == f"/api/datasets/{hub.repo}/tree/main":
            if hub.faults.get(path):
                return self.answer(hub.faults[path])
            rows = [dict(type="file", path=p, size=len(b), oid="0" * 40) for p, b in hub.files.items()]
            return self.answer(200, json.dumps(rows).encode(), Content_Type="application/json")
        if path.startswith("/cdn/"):
            return self.send_content(path[len("/cdn/"):])
        match = re.fullmatch(f"/datasets/{hub.repo}/resolve/(main|{hub.commit})/(.+)", path)
        if not match or match[2] not in hub.files:
            return self.answer(404, X_Error_Code="EntryNotFound" if match else "RepoNotFound")
        name = match[2]
        if (hub.faults.get(name) or [None])[0] == 503:
            hub.faults[name].pop(0)
            return self.answer(503)
        sha256 = hub.sha256.get(name) or hashlib.sha256(hub.files[name]).hexdigest()
        self.answer(302, Location=hub.cdn + name, X_Repo_Commit=hub.commit, X_Linked_Etag=f'"{sha256}"',
                    X_Linked_Size=len(hub.files[name]), ETag='"pointer"')

    do_HEAD = do_GET

    def send_content(self, name):
        body, start = self.server.files[name], 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            extra = dict(Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")
        faults = self.server.faults.get(name) or [None]
        fault = faults.pop(0)
        if fault is None:
            return self.answer(206, body[start:], **extra) if start else self.answer(200, body, ETag='"x"')
        kind, value = fault
        if kind == "body":
            return self.answer(200, value)
        self.send_response(200)  # "cut" and "stall" after `value` bytes
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:value])
        self.wfile.flush()
        if kind == "stall":
            time.sleep(30)
        self.close_connection = True

VAL, TRAIN1, TRAIN2 = "fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"


@pytest.fixture
def hub(tmp_path):
    """A hub with three small shards of kjj0/fineweb10B-gpt2."""
    server = Hub("kjj0/fineweb10B-gpt2")
    for seed, name in enumerate((VAL, TRAIN1, TRAIN2)):
        path = tmp_path / name
        write_shard(path, np.random.default_rng(seed).integers(0, 50257, 5000))
        server.files[name] = path.read_bytes()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub, out, n=1, *args):
    home = out.parent / "home"
    return run("cached_fineweb10B.py", n, "--out", out, *args, HF_ENDPOINT=hub.url, HF_HOME=home)


def holds(out, hub, *names):
    return all((out / name).read_bytes() == hub.files[name] for name in names)
