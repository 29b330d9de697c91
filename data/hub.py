"""Downloads from the hub: retried, resumed, and compared with what was downloaded before."""
import contextlib
import fcntl
import importlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from data.shards import sha256_of
from speedrun.cli import Refusal

WAITS = (1, 2, 4, 8)  # seconds before each further attempt


def library(name: str):
    """Import a library that only this command needs; a Refusal that names the fix where it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Refusal(f"the package {name} does not load ({error}); "
                      "run `.venv/bin/pip install -r requirements.txt`") from None


def hub():
    """huggingface_hub, imported on first use; its own warnings are off, `retried` says what matters."""
    library("huggingface_hub.utils.logging").set_verbosity_error()
    return library("huggingface_hub")


def diagnose(error: Exception) -> tuple[str, bool]:
    """What a failed hub call means in words, and whether it may pass; raises what it does not know."""
    errors = library("huggingface_hub.errors")
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            fix = "run `hf auth login` or unset a wrong HF_TOKEN"
            return f"the hub refuses access (HTTP {status}); {fix}", False
        if status == 404:
            return "the hub has no such file or dataset (HTTP 404); check the name and HF_ENDPOINT", False
        return f"the hub answers HTTP {status}; try again later", status in (408, 429) or status >= 500
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "needed from the hub, but HF_HUB_OFFLINE is set; run `unset HF_HUB_OFFLINE`", False
    first_line = (str(error).splitlines() or [""])[0]
    if type(error).__name__ in ("InvalidURL", "UnsupportedProtocol"):
        endpoint = os.environ.get("HF_ENDPOINT")
        return f"HF_ENDPOINT={endpoint} is no address ({first_line}); fix or unset it", False
    if isinstance(error, errors.HTTPError):
        return (f"no connection to the hub ({type(error).__name__}: {first_line}); check the network, "
                "the proxy and HF_ENDPOINT, and run this again"), True
    if isinstance(error, OSError) and error.errno is None:  # how the hub's library reports a wrong length
        return "the download ended early or had a wrong length; run this again, it resumes", True
    raise error


def retried(what: str, call, waits=WAITS):
    """`call()`, tried again after each of `waits` where the failure may pass; else a Refusal about `what`."""
    for wait in (*waits, None):
        try:
            return call()
        except Exception as error:
            reason, may_pass = diagnose(error)
            if wait is None or not may_pass:
                raise Refusal(f"{what}: {reason}") from None
        print(f"{what}: {reason.split(';')[0]}; trying again in {wait} s", file=sys.stderr, flush=True)
        time.sleep(wait)


def load_manifest(folder: Path) -> dict:
    """The entries of `manifest.json` by file name; none, and a line saying so, where it cannot be read."""
    path = folder / "manifest.json"
    try:
        files = json.loads(path.read_bytes())["files"]
        return {name: dict(size=int(e["size"]), sha256=str(e["sha256"]), mtime_ns=int(e["mtime_ns"]),
                           commit=str(e["commit"])) for name, e in files.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        print(f"{path}: unreadable, so every file is compared with the hub again", file=sys.stderr)
        return {}


def save_manifest(folder: Path, files: dict, repo: str) -> None:
    partial = folder / "manifest.json.partial"
    with open(partial, "w") as file:
        json.dump(dict(dataset=repo, files=files), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "manifest.json")


def entry_of(path: Path, sha256: str, commit: str) -> dict:
    return dict(size=path.stat().st_size, sha256=sha256, mtime_ns=path.stat().st_mtime_ns, commit=commit)


def still_good(path: Path, entry: dict | None) -> bool:
    """Whether the file is the one of the manifest: size and mtime, or (a copied folder) size and content."""
    if entry is None or not path.is_file() or path.stat().st_size != entry["size"]:
        return False
    return path.stat().st_mtime_ns == entry["mtime_ns"] or sha256_of(path) == entry["sha256"]


@contextlib.contextmanager
def locked(folder: Path):
    """Only one download at a time writes to `folder`; a second one is refused."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(f"{folder}: another download into this folder runs; wait for its end") from None
        yield


def check_disk(folder: Path, names: list[str], size: int) -> None:
    """Refuse before the start where `names`, of `size` bytes each, would not fit beside what is there."""
    arrived = sum(p.stat().st_size for name in names for p in folder.glob(f"{name}.*.partial"))
    absent = max(1, sum(not (folder / name).exists() for name in names))  # one that is there may be wrong
    needed, free = size * absent - arrived, shutil.disk_usage(folder).free
    if needed > free:
        raise Refusal(f"{folder}: {absent} file{'s need' if absent > 1 else ' needs'} {needed / 1e9:.2f} GB, "
                      f"{free / 1e9:.2f} GB are free; free some space, fetch fewer, or use another disk")


def served(repo: str, name: str) -> dict:
    """What the hub records for a file of the dataset `repo`: its URL at the served commit, commit, size in
    bytes, sha256."""
    api = hub()
    url = api.hf_hub_url(repo, name, repo_type="dataset")
    metadata = retried(name, lambda: api.get_hf_file_metadata(url))
    is_sha256 = re.fullmatch("[0-9a-f]{64}", metadata.etag or "")
    if not (metadata.commit_hash and is_sha256) or metadata.size is None:
        raise Refusal(f"{name}: {url} answers without the commit, size and sha256 that a hub sends; "
                      "check HF_ENDPOINT and the proxy")
    return dict(url=api.hf_hub_url(repo, name, repo_type="dataset", revision=metadata.commit_hash),
                commit=metadata.commit_hash, size=metadata.size, sha256=metadata.etag)


def receive(partial: Path, name: str, remote: dict) -> None:
    """Append what is missing of `remote` to `partial`. Raises what `diagnose` understands."""
    file_download = library("huggingface_hub.file_download")
    headers = library("huggingface_hub.utils").build_hf_headers() | {"Accept-Encoding": "identity"}
    try:
        with open(partial, "ab") as file:
            if file.tell() > remote["size"]:
                file.truncate(0)
                file.seek(0)
            # The library's hf_hub_download throws away what has arrived when it is interrupted; this resumes.
            file_download.http_get(remote["url"], file, resume_size=file.tell(), headers=headers,
                                   expected_size=remote["size"], displayed_filename=name)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(partial)  # a full disk does not say which file
        raise


def fetch(folder: Path, repo: str, name: str, check) -> dict:
    """Bring one file into `folder`, whatever state it is in there; its manifest entry. Raises Refusal, also
    where `check(path)` does for the file that arrived."""
    path, remote = folder / name, served(repo, name)
    if path.exists():
        if path.stat().st_size == remote["size"] and sha256_of(path) == remote["sha256"]:
            return entry_of(path, remote["sha256"], remote["commit"])
        print(f"{path}: present but not what the hub records; fetching it again", file=sys.stderr)
    partial = folder / f"{name}.{remote['sha256'][:12]}.partial"
    for attempt in (1, 2):  # a resumed file may have a bad start: the second attempt starts from nothing
        retried(name, lambda: receive(partial, name, remote))
        if sha256_of(partial) == remote["sha256"]:
            break
        partial.unlink()
        if attempt == 2:
            raise Refusal(f"{name}: the content that arrives has not the sha256 the hub records; something "
                          "on the way alters it (a proxy?), try another network or HF_ENDPOINT")
    try:
        check(partial)
    except Refusal as refusal:
        partial.unlink()
        raise Refusal(f"{name}: the hub's own file is no good: {refusal}") from None
    os.replace(partial, path)
    for stale in folder.glob(f"{name}.*.partial"):
        stale.unlink()
    return entry_of(path, remote["sha256"], remote["commit"])


def fetch_all(folder: Path, names: list[str], repo: str, size: int, check) -> list[str]:
    """Bring `names` of the dataset `repo`, of `size` bytes each, into `folder`, noting each in the manifest
    at once; those that were not there yet. check(path) raises Refusal for a file that is no good."""
    files = load_manifest(folder)
    missing = [name for name in names if not still_good(folder / name, files.get(name))]
    if not missing:
        return []
    for name in missing:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check_disk(folder, missing, size)
        for number, name in enumerate(missing, 1):
            start = time.monotonic()
            files[name] = fetch(folder, repo, name, check)
            save_manifest(folder, files, repo)
            print(f"{name}: {number} of {len(missing)}, {files[name]['size'] / 1e6:.1f} MB, "
                  f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return missing
