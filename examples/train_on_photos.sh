#!/usr/bin/env bash
# From raw pictures to portraits with weights of your own, with no step by hand:
#
#   bash examples/train_on_photos.sh [OUT] [options of train, such as --set adapter.schedule.steps=600]
#
# The raw pictures are drawn and saved as plain JPEGs, one folder a person; put your own folder in their place.
# Stopped at any moment, the same line goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/train-on-photos}
shift $(($# > 0))
PATH="$PWD/.venv/bin:$PATH"

consistentid dataset draw --people 8 --scenes 4 --photos --out "$out/drawn"
consistentid dataset build "$out/drawn/photos" --out "$out/people"
consistentid dataset check "$out/people"
consistentid dataset pack "$out/people" --out "$out/shards"
consistentid train recipes/photos.yaml --data "$out/shards" --out "$out/run" "$@"
consistentid generate examples/portraits/ada.png --preset "$out/run" \
  --prompt "a woman in a red hat on a beach" --num 4 --seed 7 --out "$out/portraits"
