"""The shell scripts, as real processes on a copy of them with stubs of the trainer and needs.py. Nothing is
installed: the copy's `.venv` is a wrapper around the Python that runs the tests, with the stamp of a
finished set-up."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from speedrun import ROOT

pytestmark = pytest.mark.process

SCRIPTS = ("setup.sh", "run.sh", "test.sh", "lock.sh")
REQUIREMENTS = ("requirements.txt", "requirements-nodeps.txt", "requirements.lock", "requirements-torch.lock",
                "requirements-cpu.lock")
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL", "PIP_PROXY"), "http://127.0.0.1:9")

TRAINER = r"""
import os, sys
if __name__ == "__main__":
    ranks = f"{os.environ.get('RANK')}/{os.environ.get('WORLD_SIZE')}"
    os.write(1, " ".join(["trained", *sys.argv[1:], ranks]).encode() + b"\n")  # in one piece
    sys.exit(int(os.environ.get("EXIT", 0)))
"""

NEEDS = r"""
import os, sys

if "--bad" in sys.argv:
    print("train_gpt: unknown argument --bad", file=sys.stderr)
    raise SystemExit(2)
cpu = "--device=cpu" in sys.argv or ("--device", "cpu") in zip(sys.argv, sys.argv[1:])
fetch = ["fetch.py", "two words", "3"] if "--fetch" in sys.argv else []
print(1 if cpu else os.environ.get("GPUS", 0), *fetch, sep=chr(10))
"""


def requirements_checksum(folder):
    text = b"".join((folder / name).read_bytes() for name in REQUIREMENTS)
    return subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout.decode().strip()


@pytest.fixture
def clone(tmp_path):
    """A folder (with a space in its name) holding the scripts, the stub trainer and a finished set-up."""
    folder = tmp_path / "a clone"
    (folder / "scripts").mkdir(parents=True)
    for name in (*REQUIREMENTS, *(f"scripts/{name}" for name in SCRIPTS)):
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod((ROOT / name).stat().st_mode)
    (folder / "train_gpt.py").write_text(TRAINER)
    (folder / "speedrun/training").mkdir(parents=True)
    (folder / "speedrun/training/needs.py").write_text(NEEDS)
    (folder / "fetch.py").write_text("import sys\nprint('fetched', sys.argv[1:], flush=True)\n")
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/stamp").write_text(f"{requirements_checksum(folder)} gpu\n")
    return folder


def run(folder, script, *args, **env):
    """From another folder than the clone, without network."""
    env = {**os.environ, **OFFLINE, **env}
    return subprocess.run([folder / "scripts" / script, *args], cwd=folder.parent, env=env, text=True,
                          capture_output=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_an_example_and_sets_nothing_up(clone, script):
    (clone / ".venv").rename(clone / "elsewhere")
    result = run(clone, script, "--help")
    assert result.returncode == 0 and "example: " in result.stdout and not result.stderr
    assert not (clone / ".venv").exists()


def test_finished_setup_is_left_alone(clone):
    before = {path: path.stat().st_mtime_ns for path in (clone / ".venv").rglob("*")}
    result = run(clone, "setup.sh")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert before == {path: path.stat().st_mtime_ns for path in (clone / ".venv").rglob("*")}


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not run by scripts/test.sh")
def test_the_live_venv_carries_the_stamp_of_these_requirements():
    assert (ROOT / ".venv/stamp").read_text().rsplit(" ", 1)[0] == requirements_checksum(ROOT)


def test_unusable_python_is_one_line(clone):
    (clone / ".venv").rename(clone / "elsewhere")
    result = run(clone, "run.sh", PYTHON="/no/such/python")
    assert result.returncode == 1 and not (clone / ".venv").exists()
    assert result.stderr.count("\n") == 1 and "PYTHON=/no/such/python" in result.stderr


def test_foreign_venv_is_never_deleted(clone):
    (clone / ".venv/stamp").unlink()
    (clone / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    (clone / ".venv/precious").touch()
    result = run(clone, "setup.sh")
    assert result.returncode == 1 and "not made by this script" in result.stderr
    assert (clone / ".venv/precious").exists()


def test_wrong_arguments_end_before_any_launcher(clone):
    result = run(clone, "run.sh", "--bad", GPUS="2")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "train_gpt: unknown argument --bad\n"


def test_what_names_its_interpreter_can_be_executed():
    folders = ("scripts", ".ci", "tests/bench")
    paths = [path for folder in folders for path in (ROOT / folder).iterdir() if path.is_file()]
    named = [path for path in paths if path.read_bytes().startswith(b"#!")]
    assert len(named) > 20 and [path.name for path in named if not os.access(path, os.X_OK)] == []


def test_fetches_then_trains_in_one_process_and_passes_the_exit_code_on(clone):
    result = run(clone, "run.sh", "--fetch", "x y", EXIT="130", RANK="3", WORLD_SIZE="8")
    assert result.returncode == 130
    assert result.stdout == "trained --fetch x y None/None\n"  # the trainer's alone
    assert "fetched ['two words', '3']\n" in result.stderr


def test_device_cpu_is_one_process_whatever_the_gpus(clone):
    result = run(clone, "run.sh", "--device", "cpu", GPUS="2")
    assert result.returncode == 0 and result.stdout == "trained --device cpu None/None\n"


@pytest.mark.parametrize("question", ["--list", "--dry-run"])
def test_questions_need_no_data(clone, question):
    result = run(clone, "run.sh", "--fetch", question)
    assert result.returncode == 0 and result.stdout == f"trained --fetch {question} None/None\n"


def test_one_process_per_gpu_and_an_occupied_port_stops_nothing(clone):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("", 29500))
            taken.listen()
        except OSError:
            pass  # somebody else has it: just as good
        result = run(clone, "run.sh", GPUS="2", MASTER_PORT="29500", MASTER_ADDR="localhost")
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["trained 0/2", "trained 1/2"]
