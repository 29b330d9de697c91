"""The lock files hold what a person pinned, each package with the sha256 of its files."""
import re

import pytest

from speedrun import ROOT

LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-cpu.lock")


def packages(name):
    """(package, version) -> its hashes, of a lock file."""
    found, current = {}, None
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([^ ;\\]+)", line):
            current = found.setdefault((match[1].lower(), match[2]), [])
        current is None or current.extend(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
    return found


def pins(name):
    return re.findall(r"^([\w-]+)==([^ ]+)", (ROOT / name).read_text(), flags=re.M)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-nodeps.txt"])
def test_every_pin_is_locked(name):
    locked = {key for lock in LOCKS for key in packages(lock)}
    missing = [pin for pin in pins(name) if (pin[0].lower().replace("_", "-"), pin[1]) not in locked]
    assert pins(name) and not missing, "run scripts/lock.sh"


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_the_hashes_of_its_files(name):
    found = packages(name)
    assert found and all(found.values()), [key for key, hashes in found.items() if not hashes]


def test_a_cpu_machine_installs_no_cuda_package():
    cuda = [name for name, _ in packages("requirements.lock") if re.match(r"torch$|nvidia|cuda|triton", name)]
    assert not cuda


def test_the_cpu_build_is_that_of_the_pin_for_each_python_and_architecture():
    (build, hashes), = packages("requirements-cpu.lock").items()
    assert build == ("torch", dict(pins("requirements.txt"))["torch"] + "+cpu")
    registry = packages("requirements-torch.lock")
    assert len(hashes) >= 4 * 2 and not set(hashes) & set(sum(registry.values(), []))


def test_a_machine_gets_one_version_of_a_package():
    text = "".join((ROOT / name).read_text() for name in LOCKS[:2])
    lines = re.findall(r"^([\w.-]+)==[^ ]+(?: ; python_full_version ([<>=]+) '([\d.]+)')?", text, flags=re.M)
    split = [name for name, _, _ in lines if sum(other == name for other, _, _ in lines) > 1]
    assert len(lines) > 80
    for name in set(split):
        assert sorted(line[1] for line in lines if line[0] == name) == ["<", ">="], name
        assert len({line[2] for line in lines if line[0] == name}) == 1, name
