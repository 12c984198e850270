#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to a trained language model that writes: sets up .venv, trains the
# default config on its embedded corpus (no network, no accelerator), and samples from it.
#
#   tools/quickstart.sh [--config.FIELD=VALUE ...]     further arguments go to the training
#
# Run again, it skips what is done; stopped in the middle, it goes on from there.
# WORKDIR names another folder than runs/quickstart; PYTHON and VENV as in setup_env.sh.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
workdir=${WORKDIR:-runs/quickstart}
say() { printf '\nquickstart: %s\n' "$*"; }

say "1 of 3: setting up"
"$root/tools/setup_env.sh"
python=${VENV:-$root/.venv}/bin/python
cd "$root"

say "2 of 3: training configs/pretrain/world.py into $workdir"
"$python" -m alignjax.train --config=configs/pretrain/world.py --workdir="$workdir" "$@"

say "3 of 3: letting the model write"
"$python" -m alignjax.generate --run="$workdir" --prompt=$'user: how do i bake bread?\nassistant:'

say "to write more: $python -m alignjax.generate --run=$workdir --prompt='...'"
