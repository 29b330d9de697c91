"""What a log says of where its code came from: known, or not known, never guessed."""
import json
import os
import subprocess
import sys

import pytest

from speedrun import ROOT
from speedrun.training.provenance import git_state

pytestmark = pytest.mark.process

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b")


def git(folder, *words) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", "-C", folder, *AUTHOR, *words], env=env, check=True, capture_output=True,
                          text=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A clone of one commit of one file."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return folder


def test_a_clone_says_its_commit_and_whether_it_was_edited(clone):
    head = git(clone, "rev-parse", "HEAD")
    assert git_state(clone) == dict(commit=head, changed=False)
    (clone / "a.py").write_text("2\n")
    assert git_state(clone) == dict(commit=head, changed=True)


def test_a_copy_inside_another_repository_has_no_commit(clone):
    (clone / "zip").mkdir()
    assert git_state(clone / "zip") is None


def test_what_git_cannot_say_is_not_known(clone):
    (clone / "a.py").write_text("2\n")
    (clone / ".git/index").write_bytes(b"broken")
    assert git_state(clone)["changed"] is None


def test_variables_of_the_environment_do_not_lead_astray(clone, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "y")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(clone))
    assert git_state(clone)["commit"] == git(clone, "rev-parse", "HEAD")


def test_hooks_and_modules_from_elsewhere_are_in_the_log(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import stranger\n")
    (tmp_path / "stranger.py").write_text("")
    code = (f"import sys; sys.path.append({str(ROOT)!r}); import json, numpy\n"
            "from speedrun.training.provenance import imports; print(json.dumps(imports()))")

    def found(**more):
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, cwd=ROOT, check=True,
                              capture_output=True, text=True)
        assert str(tmp_path) not in done.stdout  # no log names a folder of its machine
        return json.loads(done.stdout)

    plain, hooked = found(), found(PYTHONPATH=str(tmp_path))
    assert (plain["variables"], plain["modules"]) == ([], {})
    assert hooked["variables"] == ["PYTHONPATH"] and "DIR" in hooked["paths"]
    assert set(hooked["modules"]) == {"sitecustomize", "stranger"}
    assert all(len(sha256) == 64 for sha256 in hooked["modules"].values())
