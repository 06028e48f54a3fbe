#!/usr/bin/env bash
# Trains every baseline and ablation with one budget, draws with each, and scores all of them with one ruler.
# Stopped at any moment, the same line goes on.
#
#   recipes/baselines/run.sh RUNS [PEOPLE] [PROMPTS] [options of train, such as --set adapter.schedule.steps=100]
#
# RUNS/report/report.html is the result; RUNS/ablations/report.html holds the curves that need no training. With
# PROCESSES=4 in the environment four processes draw at a time.
set -euo pipefail
runs=$1 people=${2:-100} prompts=${3:-8}
shift $(($# < 3 ? $# : 3))
recipes=$(dirname "$0")
draw=(consistentid evaluate --people "$people" --prompts "$prompts" --workers "${PROCESSES:-1}")

# recipe -> how its weights are run: first as they were trained, then along its curve of likeness against the prompt
declare -A variants=(
  [full]="full full@scale=0.5 full@scale=1.5"
  [id_linear]="overall_only overall_only@scale=0.5 overall_only@scale=1.5"
  [id_clip]="overall_only overall_only@scale=0.5 overall_only@scale=1.5"
  [parts_only]="parts_only parts_only@merge_at=0 parts_only@merge_at=0.5"
  [without_localisation]=full [frozen_projection]=full [fixed_captions]=full [true_captions]=true_sentence
  [identity_loss]=full
)
manifests=()
for name in full id_linear id_clip parts_only without_localisation frozen_projection fixed_captions true_captions \
  identity_loss; do
  consistentid train "$recipes/$name.yaml" --out "$runs/$name/weights" "$@"
  read -ra ways <<<"${variants[$name]}"
  "${draw[@]}" --adapter "$runs/$name/weights" "${ways[@]/#/--variant=}" --out "$runs/$name/pictures"
  manifests+=(--manifest "$name=$runs/$name/pictures/manifest.csv")
done
"${draw[@]}" --variant text_only --out "$runs/text_only/pictures"
consistentid evaluate "${manifests[@]}" --manifest "text_only=$runs/text_only/pictures/manifest.csv" --out "$runs/report"
"${draw[@]}" --adapter "$runs/full/weights" --out "$runs/ablations" \
  --ablate components --ablate captions --ablate merge --ablate scale --ablate parts
