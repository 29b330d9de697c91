#!/usr/bin/env bash
# Writes the lock files from requirements*.txt: exact versions and sha256 of everything that set-up installs.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  '') ;;
  -h | --help)
    cat <<'END'
usage: scripts/lock.sh
Resolves requirements.txt and requirements-nodeps.txt for Python 3.11 and newer on Linux and macOS, with the
transitive packages, and writes
  requirements.lock        all packages but torch and the CUDA packages that its registry build needs
  requirements-torch.lock  these: for machines with a GPU, and for macOS
requirements-cpu.lock, torch's CPU builds for Linux, is edited by hand: `pip hash WHEEL` prints a line of it.
Needs uv (https://docs.astral.sh/uv/) and a network.
example: scripts/lock.sh && git diff --stat
END
    exit 0 ;;
  *) echo "lock: unknown argument $1 (see scripts/lock.sh --help)" >&2; exit 2 ;;
esac
uv=$(command -v uv) || { echo "lock: uv is not installed; run pip install uv and then this again" >&2; exit 1; }

resolve() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header "$@"
}

whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
{
  resolve requirements.txt
  resolve --no-deps requirements-nodeps.txt
} >"$whole"
# A package is its line and the indented lines after it. torch's registry build alone needs the CUDA packages.
split() {
  awk -v cuda="$1" '/^[a-zA-Z0-9]/ { mine = ($0 ~ /^(torch|triton|nvidia-|cuda-)/) == cuda } mine' "$whole"
}
note='# Written by scripts/lock.sh from requirements.txt and requirements-nodeps.txt; do not edit.'
{ echo "$note"; split 0; } >requirements.lock
{ echo "$note"; split 1; } >requirements-torch.lock
echo "written: requirements.lock, requirements-torch.lock" >&2
