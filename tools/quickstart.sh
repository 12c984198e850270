#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole story on the embedded world, from a fresh clone: pretraining, fine-tuning, a
# reward model, DPO, RLHF, and a report of what each stage changed. No network beyond
# the package index, no accelerator.
#
#   tools/quickstart.sh                          12 to 14 minutes on 2 cores
#   tools/quickstart.sh --fast                   4 to 5: smaller stages, the same report
#   tools/quickstart.sh --seed=3                 another seed, in a folder of its own
#   tools/quickstart.sh [--fast] [--config.FIELD=VALUE ...]   further flags for all stages
#
# Run again, it skips what is done; stopped in the middle, it goes on from there.
# WORKDIR names another folder than runs/quickstart; PYTHON and VENV as in setup_env.sh.
set -euo pipefail

usage() { sed -n '3,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
say() { printf '\nquickstart: %s\n' "$*"; }

fast='' seed='' flags=()
for word in "$@"; do
  case $word in
    -h | --help) usage; exit ;;
    --fast) fast=_fast ;;
    --seed=*[!0-9]* | --seed=) echo "quickstart: $word: no number" >&2 && exit 64 ;;
    --seed=*) seed=${word#--seed=} ;;
    --config.*) flags+=("$word") ;;
    *)
      echo "quickstart: no such argument: $word; see --help" >&2
      exit 64
      ;;
  esac
done
set -- ${seed:+"--config.seed=$seed"} ${flags[@]+"${flags[@]}"}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# Relative ones are of the folder that this is called from, not of the checkout.
[[ -z ${WORKDIR:-} || $WORKDIR == /* ]] || WORKDIR=$PWD/$WORKDIR
[[ -z ${VENV:-} || $VENV == /* ]] || export VENV=$PWD/$VENV
workdir=${WORKDIR:-runs/quickstart$fast${seed:+_$seed}}

say "1 of 7: setting up"
"$root/tools/setup_env.sh" report
bin=${VENV:-$root/.venv}/bin
cd "$root"

# stage NAME FLAG...: trains configs/NAME/world.py into $workdir/NAME.
stage() {
  local name=$1
  shift
  "$bin/alignjax" train --config="configs/$name/world.py" \
    --workdir="$workdir/$name" "$@"
}

# assess NAME...: measures these runs and says what changed.
assess() {
  local runs=() name
  for name in "$@"; do runs+=("--run=$name=$workdir/$name"); done
  "$bin/alignjax" assess --out="$workdir/assessment.json" \
    "${runs[@]}" "${assess_flags[@]}"
}

assess_flags=(--each=128) pretrain=() sft=() reward=() dpo=() rl=() pairs=8000
if [[ -n $fast ]]; then
  assess_flags=(--each=32) pairs=1200
  pretrain=(--config.steps=400)
  sft=(--config.optimizer.learning_rate=2e-4)
  reward=(--config.steps=60 --config.evaluation.every=60)
  dpo=(--config.steps=60 --config.checkpoint.every=60 --config.evaluation.every=60)
  rl=(--config.steps=20)
fi

say "2 of 7: pretraining on the documents of a small town: the model learns to speak"
stage pretrain "${pretrain[@]}" "$@"
assess pretrain

say "3 of 7: fine-tuning on demonstrations: it learns to follow"
stage sft --config.init.run="$workdir/pretrain" "${sft[@]}" "$@"
assess pretrain sft

say "4 of 7: a reward model, from pairs that a labeler has judged: it learns what is liked"
stage reward --config.init.run="$workdir/sft" "${reward[@]}" "$@"
assess pretrain sft reward

say "5 of 7: DPO: of two replies of its own a labeler chooses one, and it moves to that one"
if [[ ! -e $workdir/pairs.jsonl ]]; then
  "$bin/alignjax" collect --out="$workdir/pairs.jsonl" --pairs="$pairs" \
    --source="$workdir/sft" --source="$workdir/sft:1.3" \
    --source="$workdir/pretrain" ${seed:+"--seed=$seed"}
fi
stage dpo --config.init.run="$workdir/sft" \
  --config.data.sources.pairs.path="$workdir/pairs.jsonl" "${dpo[@]}" "$@"
assess_flags+=(--checkpoints=dpo)
assess pretrain sft reward dpo

say "6 of 7: RLHF: the reward model scores its replies, and it moves to what scores high"
stage rl --config.init.run="$workdir/sft" \
  --config.rollouts.rewards.model.run="$workdir/reward" "${rl[@]}" "$@"

say "7 of 7: the report"
"$bin/alignjax" report --out="$workdir/report.html" \
  --assessment="$workdir/assessment.json" \
  --stage=pretrain="$workdir/pretrain" --stage=sft="$workdir/sft" \
  --stage=reward="$workdir/reward" --stage=dpo="$workdir/dpo" --stage=rl="$workdir/rl"
if [[ -z $fast && ${#flags[@]} -eq 0 ]]; then
  "$bin/python" tools/story.py "$workdir" || : # a figure outside its spread is no failure
fi
say "open $workdir/report.html in a browser"
say "to talk to it: $bin/alignjax generate --run=$workdir/dpo --interactive"
say "to go on with a real model: tools/real_model.sh"
