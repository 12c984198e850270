#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv with alignjax in it; does nothing where that is done already.
#
#   tools/setup_env.sh [EXTRA ...]     extras of setup.py, such as: dev hf cuda tpu wandb
#
# PYTHON names the interpreter to use (3.11 to 3.14); else the newest that works of those
# called python3.11 to python3.13, python3 and python, or 3.14 where there is no other.
# VENV names another folder than .venv. tools/quickstart.sh and tools/test.sh call this
# first.
set -euo pipefail

for word in "$@"; do
  case $word in
    -h | --help) sed -n '3,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    -*)
      echo "setup: no such option: $word; see --help" >&2
      exit 64
      ;;
  esac
done

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
say() { printf 'setup: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# A python counts when it runs, is of a version that setup.py admits, and has venv.
works() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
    >/dev/null 2>&1
}

find_python() {
  local candidate version best='' newest=0
  if [[ -n ${PYTHON:-} ]]; then
    works "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11 to 3.14 with venv"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3 python python3.14; do
    works "$candidate" || continue
    version=$(version_of "$candidate")
    version=${version#3.}
    [[ $version != 14 ]] || version=1 # last: not all extras have wheels for it
    if ((version > newest)); then
      best=$candidate newest=$version
    fi
  done
  if [[ -n $best ]]; then
    printf '%s\n' "$best"
    return
  fi
  die "found no Python 3.11 to 3.14 with venv; install one (Debian: python3-venv) or set PYTHON"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

make_venv() {
  # A venv without pip is one whose making was cut short.
  if works "$venv/bin/python" && "$venv/bin/python" -m pip --version &>/dev/null; then
    [[ -z ${PYTHON:-} || $(version_of "$PYTHON") == $(version_of "$venv/bin/python") ]] ||
      die "$venv has Python $(version_of "$venv/bin/python"), not that of PYTHON=$PYTHON; remove it or set VENV"
    return
  fi
  local python
  python=$(find_python)
  say "making $venv with Python $(version_of "$python")"
  "$python" -m venv --clear "$venv"
}

# One stamp for each set of extras, good for as long as setup.py stays as it is.
install() {
  local wanted="$*" target=$root stamp
  [[ -z $wanted ]] || target="${root}[${wanted// /,}]"
  stamp=$venv/.alignjax-$(printf '%s\n' "$root" "$wanted" | cat - "$root/setup.py" | cksum | tr ' ' -)
  if [[ -e $stamp ]]; then
    say "$venv is ready"
    return
  fi
  say "installing alignjax${wanted:+ with extras: $wanted} (a minute or two, the first time)"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "$target"
  touch "$stamp"
  say "done in ${SECONDS} s"
}

if command -v flock >/dev/null; then # two at once would spoil each other's work
  mkdir -p "$root/.cache"
  exec 9>"$root/.cache/setup.lock"
  flock 9
fi
make_venv
install "$@"
