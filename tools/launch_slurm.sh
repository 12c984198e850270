#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on a Slurm cluster, one process a GPU. Not yet run on a real cluster.
#
#   tools/launch_slurm.sh [SBATCH OPTION ...] -- [TRAINING ARGUMENT ...]
#
#   tools/launch_slurm.sh --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 -- \
#       --config=configs/pretrain/llama_1b.py --workdir=/shared/runs/llama_1b
#
# The checkout, its .venv (tools/setup_env.sh cuda) and the workdir lie on a file system
# that all nodes share. Slurm sends SIGTERM 180 s before the time limit; the run saves,
# exits with 75, and is put back into the queue, as it is after a hang (76) or the death
# of a process (above 128), at most 20 times. It goes on from its last checkpoint.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '3,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

options=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit ;;
    --) shift; break ;;
    *) options+=("$1"); shift ;;
  esac
done
(($#)) || { usage >&2; exit 64; }

python=${VENV:-$root/.venv}/bin/python
printf -v train '%q ' srun --kill-on-bad-exit=1 "$python" -m alignjax.train --multihost "$@"
printf -v folder '%q' "$root"
mkdir -p "$root/runs"

exec sbatch --job-name=alignjax --signal=TERM@180 --requeue --open-mode=append \
  --output="$root/runs/slurm-%j.txt" "${options[@]}" --wrap="
cd $folder
$train
code=\$?
if ((code == 75 || code == 76 || code > 128)) && ((\${SLURM_RESTART_COUNT:-0} < 20)); then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \$code"
