"""Without the packages that scripts/setup.sh installs, every script answers with one line in its own name."""
import re

import pytest

from speedrun import ROOT
from tests.support.fewer_packages import without

pytestmark = pytest.mark.process

SCRIPTS = ["train_gpt.py", *sorted(str(path.relative_to(ROOT)) for folder in ("scripts", "data")
                                   for path in (ROOT / folder).glob("*.py")
                                   if "\n@command\n" in path.read_text())]


def answer(script: str, *hidden: str):
    """The answer of a script's --help as a process that has not these packages."""
    return without(hidden, script, "--help")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_names_itself_the_package_and_the_fix(script):
    done = answer(script, "torch", "numpy", "scipy", "pandas", "matplotlib")
    name = script.rsplit("/", 1)[-1]
    says = (f"{name}: No module named '(numpy|torch|scipy)'; run scripts/setup.sh and then .venv/bin/python "
            f"{re.escape(script)}\n")
    assert done.returncode == 0 and "usage: " in done.stdout or re.fullmatch(says, done.stderr), done.stderr


@pytest.mark.long
@pytest.mark.parametrize("hidden", ["torch", "numpy", "scipy"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_whatever_the_package(script, hidden):
    done, says = answer(script, hidden), f"No module named '{hidden}'; run "
    assert done.returncode == 0 or done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


def test_who_verifies_needs_no_torch():
    done = answer("scripts/verify.py", "torch")
    assert done.returncode == 0 and "--rerun" in done.stdout and not done.stderr
