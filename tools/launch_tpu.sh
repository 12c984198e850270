#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on all workers of a Cloud TPU slice that exists. Not yet run on a real slice.
#
#   tools/launch_tpu.sh NAME ZONE -- [TRAINING ARGUMENT ...]
#
#   tools/launch_tpu.sh my-v5p us-east5-a -- \
#       --config=configs/pretrain/llama_8b.py --workdir=/mnt/runs/llama_8b
#
# Copies the last commit to every worker, sets it up there and starts one process on
# each. What is not committed does not travel. The workdir is on a disk that all workers
# share; the same command goes on from its last checkpoint. Needs gcloud, logged in, with
# a project set.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '3,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

case ${1:-} in -h | --help) usage; exit ;; esac
if (($# < 4)) || [[ $3 != -- ]]; then
  usage >&2
  exit 64
fi
name=$1 zone=$2
shift 3

if ! git -C "$root" diff --quiet HEAD; then
  echo "launch: changes that are not committed stay behind" >&2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git -C "$root" archive --format=tar.gz --output="$scratch/alignjax.tar.gz" HEAD

gcloud compute tpus tpu-vm scp "$scratch/alignjax.tar.gz" "$name:" \
  --zone="$zone" --worker=all
printf -v train '%q ' .venv/bin/python -m alignjax.train --multihost "$@"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
set -e
mkdir -p alignjax
tar -xzf alignjax.tar.gz -C alignjax
cd alignjax
tools/setup_env.sh tpu
exec $train"
