#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv with the dev extra, checks the style and runs the tests.
#
#   tools/test.sh                     all but those marked slow or gpu
#   tools/test.sh tests/losses        further arguments go to pytest
#   tools/test.sh -m slow             another choice of marks
#
# TEST_WORKERS sets how many processes run the tests (default: one more than cores, since
# many tests wait for a process; at most 4);
# PYTHON and VENV as in setup_env.sh.
set -euo pipefail

case ${1:-} in
  -h | --help) sed -n '3,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
[[ -z ${VENV:-} || $VENV == /* ]] || export VENV=$PWD/$VENV
cores=$(getconf _NPROCESSORS_ONLN)
workers=${TEST_WORKERS:-$((cores < 4 ? cores + 1 : 4))}

"$root/tools/setup_env.sh" dev
python=${VENV:-$root/.venv}/bin/python
cd "$root"

echo "test: ruff"
"$python" -m ruff check
"$python" -m ruff format --check --quiet
echo "test: pytest, $workers at a time"
# Tests are for CPU; a file stays on one worker, so that its fixtures are made once.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
"$python" -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -q \
    -m "not slow and not gpu" "$@"
