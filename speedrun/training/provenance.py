"""Where the code of a run came from: the commit, and what could have changed it without being in the log."""
import hashlib
import importlib.metadata
import os
import re
import site
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

from speedrun import ROOT
from speedrun.log import git

OURS = ("train_gpt.py", "tracks.py", "optimizers", "data", "speedrun")  # whose sources a log holds
HOOKS = ("sitecustomize", "usercustomize")  # what Python runs before anything else
TOOLS = {"pip", "setuptools", "wheel"}      # of every environment; setuptools starts a hook of its own
MOST_MODULES = 200


def git_state(root: Path) -> dict | None:
    """The commit, and whether tracked files differ from it: None where git does not say. None for a folder
    that is not the top of a clone."""
    if not git.is_clone(root) or (commit := git.ask(root, "rev-parse", "HEAD")) is None:
        return None
    status = git.ask(root, "status", "--porcelain", "-uno", seconds=20)
    return dict(commit=commit, changed=None if status is None else bool(status))


def imports() -> dict:
    """What could have changed the code that runs, beside the sources that a log holds.

    `variables`: PYTHONPATH and its like, where set; `paths`: where modules are looked for, DIR for a folder
    that is neither Python's nor the project's; `modules`: name -> sha256 of each loaded module that is not
    the standard library's, the project's, nor of a package that the requirements ask for, at most
    MOST_MODULES; a sitecustomize counts as one wherever it lies. None where the requirements are not
    there to be read.
    """
    known, modules = [*_standard(), *_packages()], {}
    if not _pinned_names():
        return dict(variables=_variables(), paths=_labels(sys.path), modules=None)
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not path or not os.path.isabs(path) or len(modules) == MOST_MODULES:
            continue
        if name in HOOKS or not (_inside(path) in OURS or _pinned(path, known)):
            modules[name] = _sha256(path)
    return dict(variables=_variables(), paths=_labels(sys.path), modules=modules)


def _variables() -> list[str]:
    """The environment's variables that tell Python where to find code, by name."""
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX")
    return [name for name in names if os.environ.get(name)]


def _labels(paths: list) -> list[str]:
    """Folders of Python and of the project by a word, others as DIR: no log names a folder of its machine."""
    labels, standard, packages = [], _standard(), _packages()
    for path in map(str, paths):
        label = "DIR"
        if _inside(os.path.join(path or os.getcwd(), "x")):
            label = "project"
        if path in packages:
            label = "packages"
        elif any(path == folder or path.startswith(folder + os.sep) for folder in standard):
            label = "python"
        elif path.endswith(".zip") and os.path.dirname(path) in map(os.path.dirname, standard):
            label = "python"
        labels.append(label)
    return list(dict.fromkeys(labels))


def _inside(path: str) -> str | None:
    """The first part of a path below the project's folder; None outside it and in its environment."""
    first, *rest = os.path.relpath(os.path.realpath(path), ROOT).split(os.sep)
    return None if first in ("..", ".venv", "venv") or "site-packages" in rest else first


@lru_cache
def _standard() -> list[str]:
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return sorted(found | {os.path.realpath(path) for path in found})


@lru_cache
def _packages() -> list[str]:
    return sorted({*site.getsitepackages(), site.getusersitepackages(),
                   *(sysconfig.get_path(name) for name in ("purelib", "platlib"))})


def _pinned(path: str, known: list[str]) -> bool:
    """Whether a module's file is the standard library's, or of a package that the requirements bring."""
    inside = [folder for folder in known if path.startswith(folder + os.sep)]
    if not inside:
        return False
    first = path[len(max(inside, key=len)) + 1:].split(os.sep)[0]
    if max(inside, key=len) in _standard():
        return first not in ("site-packages", "dist-packages")
    return first in _pinned_names() or first.split(".")[0] in _pinned_names()


@lru_cache
def _pinned_names() -> set[str]:
    """The files and folders, directly below the packages' folder, of all that the requirements bring."""
    wanted, found, names = set(), set(), set()
    for file in ROOT.glob("requirements*.txt"):
        wanted |= TOOLS
        wanted |= set(re.findall(r"^([A-Za-z0-9][\w.-]*)", file.read_text(encoding="utf-8"), re.MULTILINE))
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            about = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted |= {re.match(r"[\w.-]+", need)[0] for need in about.requires or ()}
        names |= {str(file).split("/")[0] for file in about.files or ()}
    return names


def _sha256(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None
