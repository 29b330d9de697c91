#!/usr/bin/env bash
# Writes the lock files from requirements*.txt: exact versions and sha256 of everything that set-up installs.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'END'
usage: scripts/lock.sh [--upgrade | --upgrade-package NAME ...]
Resolves requirements.txt and requirements-nodeps.txt for Python 3.11 and newer on Linux and macOS, with the
transitive packages, and writes
  requirements.lock        all packages but torch and the CUDA packages that its registry build needs
  requirements-torch.lock  these: for machines with a GPU, and for macOS
  requirements-cpu.lock    torch's CPU builds for Linux
Run it after an edit of either list. What they do not pin keeps its version unless it is to be upgraded.
Needs uv (https://docs.astral.sh/uv/), a network and, for another version of torch, PyTorch's CPU index.
example: scripts/lock.sh --upgrade-package urllib3 && git diff --stat
END
}

cpu_index=https://download.pytorch.org/whl/cpu
note='# Written by scripts/lock.sh from requirements.txt and requirements-nodeps.txt; do not edit.'

die() { echo "lock: $1" >&2; exit "${2:-1}"; }

resolve() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
    --no-annotate --no-header "$@"
}

# The packages of the file $2 (a line each, and the indented lines below it) that are torch's own, or not ($1).
split() {
  awk -v cuda="$1" '/^[a-zA-Z0-9]/ { mine = ($0 ~ /^(torch==|triton==|nvidia-|cuda-)/) == cuda } mine' "$2"
}

# torch's CPU build as its index has it; else the one that is here, if it is of this version.
cpu_build() {
  local pin
  pin=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)+cpu
  echo "# torch's CPU builds, from $cpu_index. Written by scripts/lock.sh."
  if ! echo "$pin" | resolve --no-deps --default-index "$cpu_index" - 2>/dev/null; then
    grep -qF "$pin " requirements-cpu.lock ||
      die "no answer from $cpu_index, and requirements-cpu.lock has no $pin: run this where it is reached"
    grep -v '^#' requirements-cpu.lock
    echo "lock: no answer from $cpu_index: requirements-cpu.lock stays as it is" >&2
  fi
}

case "${1:-}" in
  '' | --upgrade | --upgrade-package) ;;
  -h | --help) usage; exit ;;
  *) die "unknown argument $1 (see scripts/lock.sh --help)" 2 ;;
esac
command -v uv >/dev/null || die "uv is not installed; run pip install uv and then this again"
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
cat requirements.lock requirements-torch.lock >"$new/all"  # uv keeps the versions in its output file
resolve "$@" --output-file "$new/all" requirements.txt >/dev/null
resolve --no-deps requirements-nodeps.txt >>"$new/all"
cpu_build >"$new/cpu"
{ echo "$note"; split 0 "$new/all"; } >requirements.lock
{ echo "$note"; split 1 "$new/all"; } >requirements-torch.lock
cat "$new/cpu" >requirements-cpu.lock
