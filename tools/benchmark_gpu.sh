#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Times alignjax on one GPU, each part in at most 5 minutes, beside torch or TRL.
#
#   tools/benchmark_gpu.sh --part=check      attention against float32, at odd lengths
#   tools/benchmark_gpu.sh --part=pretrain   124M and 1B, beside torch.compile
#   tools/benchmark_gpu.sh --part=sft        1B by LoRA, beside torch.compile
#   tools/benchmark_gpu.sh --part=dpo        1B, three layouts, beside TRL
#   tools/benchmark_gpu.sh --part=sample     1B, beside transformers
#   tools/benchmark_gpu.sh --part=rl         0.5B, 64 x 8 responses, beside transformers;
#                                            SmolLM2 on GSM8K, --run= and --questions=
#
# --small has tiny sizes, for a CPU, and --seconds=N gives a slow one more time;
# --json=FILE keeps the figures. Needs jax, flax, optax, ml_collections and their own
# needs, and torch and transformers (dpo: trl, datasets and jinja2 too); says what is
# missing before it starts. PYTHON names the interpreter.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '3,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
case ${1:-} in
  -h | --help) usage; exit ;;
  '') usage >&2; exit 64 ;;
esac
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python}" "$root/tools/benchmark_gpu.py" "$@"
