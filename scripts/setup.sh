#!/usr/bin/env bash
# Makes .venv with the locked packages. Once: later calls do nothing and need no network.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'END'
usage: scripts/setup.sh
Makes .venv in the repository and installs the packages of requirements.txt and requirements-nodeps.txt, and
what those need: the wheels whose sha256 is in requirements*.lock. scripts/run.sh and scripts/test.sh call it;
it does nothing while .venv is complete and these files are unchanged.
  PYTHON=/path/to/python  the Python to build on (3.11 or newer); rm -rf .venv first to change it
example: PYTHON=python3.12 scripts/setup.sh
END
}

cpu_index=https://download.pytorch.org/whl/cpu
python=.venv/bin/python
stamp=.venv/stamp     # written last: checksum of the requirements, and whether the machine had a GPU
log=.venv/setup.log   # written first: with no stamp beside it, a set-up was interrupted

say() { echo "$*" >&2; }
die() { say "setup: $*"; exit 1; }

has_gpu() { [[ "$(nvidia-smi -L 2>/dev/null)" == *GPU* ]]; }

lists="requirements.txt requirements-nodeps.txt"
locks="requirements.lock requirements-torch.lock requirements-cpu.lock"
checksum() { cat $lists $locks | cksum; }

ready() {
  [ -s "$stamp" ] && "$python" -c '' 2>/dev/null || return 1
  case "$(cat "$stamp")" in
    "$(checksum) gpu") return 0 ;;
    "$(checksum) cpu") ! has_gpu ;;  # one .venv may be shared by a login node and GPU nodes
    *) return 1 ;;
  esac
}

# The first Python that really runs (a pyenv shim may not), is new enough and can make a venv. Where .venv is
# active that is its own, which cannot remake it: so the answer is the Python under it.
find_python() {
  local candidate state short=''
  local probe='
import sys
if sys.version_info < (3, 11): sys.exit("old")
import ensurepip, venv
print("ok", getattr(sys, "_base_executable", sys.executable))'
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    state=$("$candidate" -c "$probe" 2>&1) || true
    case "$state" in
      'ok '*) echo "${state#ok }"; return ;;
      *ensurepip*) short=${short:-$candidate} ;;
    esac
    if [ -n "${PYTHON:-}" ]; then break; fi
  done
  if [ -n "$short" ]; then
    die "$short cannot make a virtual environment (no ensurepip): apt install python3-venv, or set PYTHON"
  elif [ -n "${PYTHON:-}" ]; then
    die "PYTHON=$PYTHON is no Python 3.11 or newer that runs: set it to one, or unset it"
  fi
  die "no Python 3.11 or newer found: install python3.11 with its venv module, or set PYTHON=/path/to/python"
}

# flock(2) through Python, since macOS has no flock command. The lock belongs to descriptor 9, so it lasts as
# long as this process. A file system without locks is no reason to stop.
lock() {
  exec 9<scripts/setup.sh
  "$1" - <<'END'
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("another set-up is running in this folder, waiting for it ...", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass
END
}

# pip spends over a minute on an index it cannot reach, so ask first. A certificate that fails here may not
# fail in pip. `timeout` bounds the name look-up too, which urllib's own limit does not.
cpu_index_answers() {
  timeout 4 "$python" - "$cpu_index/torch/" 2>/dev/null <<'END'
import ssl, sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=4)
except urllib.error.URLError as error:
    sys.exit(not isinstance(error.reason, ssl.SSLError))
END
}

# The pins of a list that a person edits, as the locks write them: name==version.
pins() { sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' "$@" | tr 'A-Z_' 'a-z-'; }

check_locks() {
  local pin
  for pin in $(pins $lists); do
    grep -q "^${pin//./[.]} " $locks ||
      die "the locks have no $pin, which the requirements ask for: run scripts/lock.sh first"
  done
}

# The locks have all that is needed, so pip resolves nothing; only wheels, so it builds nothing.
pip_runs() {
  PIP_USER=0 "$python" -m pip install --disable-pip-version-check --no-input --retries 2 \
    --no-deps --only-binary :all: --require-hashes "$@" 2>&1
}

pip_install() {
  if pip_runs "$@" >>"$log"; then return; fi
  if grep -q 'Retrying' "$log" && ! grep -q 'No space left' "$log"; then
    die "no answer from the package registry, which set-up needs once: connect, or set pip's proxy or" \
      "mirror, and run this again; details in $log"
  fi
  grep '^ERROR' "$log" >&2 || tail -n 5 "$log" >&2
  die "pip failed as above: remove the cause and run this again; all of it is in $log"
}

make_venv() {
  if [ -e .venv ] && [ ! -e "$log" ]; then  # somebody else's: used if it is good for it, never deleted
    if ! "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      die "the .venv here was not made by this script and lacks pip or Python 3.11: move it away, run again"
    fi
    say "installing into the .venv that is here ..."
    return
  fi
  say "setting up .venv (once, about 2 minutes) ..."
  rm -rf .venv
  mkdir .venv
  : >"$log"
  "$1" -m venv .venv >>"$log" 2>&1 ||
    die "$1 -m venv .venv failed (see $log): apt install python3-venv, or set PYTHON to another"
}

# On Linux the registry's torch is a CUDA build, which loads its CUDA packages wherever it runs.
install_torch_cpu() {
  if cpu_index_answers; then
    say "  $(pins requirements.txt | grep '^torch=='), CPU build"
    pip_install --extra-index-url "$cpu_index" -r requirements-cpu.lock
    return
  fi
  say "  PyTorch's CPU index does not answer: taking torch from where the other packages come from"
  # A mirror may have the CPU build.
  if pip_runs -r requirements-cpu.lock | sed 's/^/  /' >>"$log"; then return; fi
  say "  no CPU build there: taking the CUDA build and its packages"
  pip_install -r requirements-torch.lock
}

install() {
  local machine=cpu nodeps
  if has_gpu; then
    machine=gpu
    # The CPU build satisfies the pin too, so pip would keep it.
    case "$1" in *' cpu') "$python" -m pip uninstall -y torch >>"$log" 2>&1 || true ;; esac
  fi
  if [ $machine = cpu ] && [ "$(uname)" = Linux ]; then
    install_torch_cpu
  else
    say "  torch"
    pip_install -r requirements-torch.lock
  fi
  say "  packages of requirements.txt"
  nodeps="^($(pins requirements-nodeps.txt | paste -sd'|' -))"  # megabytes of text: not compiled
  pip_install -r <(awk -v "skip=$nodeps" '/^[^ #]/ { on = $0 !~ skip } on' requirements.lock)
  pip_install --no-compile -r <(awk -v "take=$nodeps" '/^[^ #]/ { on = $0 ~ take } on' requirements.lock)
  echo "$(checksum) $machine" >"$stamp"
}

main() {
  local base before=''
  case "${1:-}" in
    '') ;;
    -h | --help) usage; return ;;
    *) say "setup: unknown argument $1 (see scripts/setup.sh --help)"; exit 2 ;;
  esac
  if ready; then return; fi
  check_locks
  base=$(find_python)
  lock "$base"
  if ready; then return; fi
  trap 'say "setup: interrupted; run it again to finish"; exit 130' INT
  if [ -s "$stamp" ] && "$python" -c '' 2>/dev/null; then
    before=$(cat "$stamp")
    say "updating .venv to the changed requirements or machine ..."
    : >"$log"
    rm "$stamp"
  else
    make_venv "$base"
  fi
  SECONDS=0
  install "$before"
  say "  done in $SECONDS s"
}

main "$@"
