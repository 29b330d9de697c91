#!/usr/bin/env bash
# From a fresh clone to a trained model: sets up .venv, fetches the data the run needs, trains.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

usage() {
  cat <<'END'
usage: scripts/run.sh [ARGS of train_gpt.py]
Sets up .venv if needed, fetches the data the run needs, then trains on every visible GPU, or on the CPU
where there is none. Without ARGS: recipe aurora on track fineweb-124m with a GPU, on track laptop without
one.
  scripts/run.sh --list      the tracks and recipes
  scripts/run.sh --dry-run   what would run, without running it
  .venv/bin/python train_gpt.py --help   all ARGS
  CUDA_VISIBLE_DEVICES=0,1   only these GPUs (or --device cpu for none)
example: scripts/run.sh --track laptop --recipe muon --seeds 0 1
END
}

only_ask=''
for arg in "$@"; do
  case "$arg" in
    -h | --help) usage; exit 0 ;;
    --list | --dry-run) only_ask=yes ;;
  esac
done

"$root/scripts/setup.sh"
# Left over from another launcher these would make a single process wait for peers that do not exist.
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
if [ -n "$only_ask" ]; then
  exec "$python" "$root/train_gpt.py" "$@"
fi

# Wrong arguments end here, with the trainer's own line and exit code. -P: nothing is imported from the
# caller's folder.
plan=$(PYTHONPATH=$root "$python" -P -m speedrun.training.needs "$@")
fetch=()
{
  read -r nproc
  while IFS= read -r word; do fetch+=("$word"); done
} <<<"$plan"

if [ "${#fetch[@]}" -gt 0 ]; then
  echo "fetching the data: ${fetch[*]}" >&2
  fetch[0]=$root/${fetch[0]}
  "$python" "${fetch[@]}" >&2
fi

# One process needs no launcher: exit codes and one-line errors stay the trainer's own, and it has all cores.
if [ "$nproc" -le 1 ]; then
  exec "$python" "$root/train_gpt.py" "$@"
fi
# --standalone takes a free port, whatever else is running. torchrun would set one thread itself, noisily.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -P -m torch.distributed.run --standalone --nproc_per_node="$nproc" "$root/train_gpt.py" "$@"
