#!/usr/bin/env bash
# The tests, on the same .venv as scripts/run.sh.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  -h | --help)
    cat <<'END'
usage: scripts/test.sh [PYTEST ARGS]
Sets up .venv if needed, then runs pytest in the repository with the arguments given (default: -q tests, two
processes at a time).
example: scripts/test.sh tests/commands/test_scripts.py -k help
END
    exit 0 ;;
esac

scripts/setup.sh
[ $# -gt 0 ] || set -- -q -n 2 --dist worksteal tests
exec .venv/bin/python -m pytest "$@"
