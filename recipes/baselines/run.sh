#!/usr/bin/env bash
# Trains every baseline and ablation with one budget, draws with each, and scores all of them with one ruler.
# Stopped at any moment, the same line goes on.
#
#   recipes/baselines/run.sh RUNS [PEOPLE] [PROMPTS] [options of train, such as --set adapter.schedule.steps=100]
#
# RUNS/report/report.html is the result; RUNS/ablations/report.html holds the curves that need no training.
set -euo pipefail
runs=$1 people=${2:-100} prompts=${3:-8}
shift $(($# < 3 ? $# : 3))
recipes=$(dirname "$0")

# recipe -> how its weights are run, as they were trained
declare -A variant=(
  [full]=full [id_linear]=overall_only [id_clip]=overall_only [parts_only]=parts_only
  [without_localisation]=full [frozen_projection]=full [fixed_captions]=full [true_captions]=true_sentence
)
manifests=()
for name in full id_linear id_clip parts_only without_localisation frozen_projection fixed_captions true_captions; do
  consistentid train "$recipes/$name.yaml" --out "$runs/$name/weights" "$@"
  consistentid evaluate --adapter "$runs/$name/weights" --variant "${variant[$name]}" \
    --people "$people" --prompts "$prompts" --out "$runs/$name/pictures"
  manifests+=(--manifest "$name=$runs/$name/pictures/manifest.csv")
done
consistentid evaluate --variant text_only --people "$people" --prompts "$prompts" --out "$runs/text_only/pictures"
manifests+=(--manifest "text_only=$runs/text_only/pictures/manifest.csv")
consistentid evaluate "${manifests[@]}" --out "$runs/report"
consistentid evaluate --adapter "$runs/full/weights" --ablate components --ablate captions --ablate merge --ablate scale \
  --ablate parts --people "$people" --prompts "$prompts" --out "$runs/ablations"
