# shellcheck shell=bash
# What a slice costs an hour, as far as it can be known here. Prices change: look at
# https://cloud.google.com/tpu/pricing before you trust them, and give --price where they differ.

# USD per chip-hour. Source: SkyPilot's catalogue, made from Google's billing API
# (github.com/skypilot-org/skypilot-catalog, catalogs/v8/gcp/vms.csv), read on 2026-11-21; slice
# prices there divided by the chips of a slice. Spot prices move every month.
# generation region on-demand spot
readonly PRICES='v5litepod us-central1 1.20 0.245
v5litepod us-east1 1.20 0.245
v5litepod us-east5 1.20 0.60
v5litepod us-west1 1.20 0.245
v5litepod us-west4 1.20 0.48
v5litepod europe-west4 1.56 0.445
v6e us-central1 2.70 0.545
v6e us-east1 2.70 0.545
v6e us-east5 2.70 1.215
v6e us-south1 2.70 1.35
v6e europe-west4 2.97 1.04
v5p us-central1 4.20 0.836
v5p us-east5 4.20 1.68
v5p europe-west4 4.26 1.35
v4 us-central2 3.22 0.922'

# Chips of all slices together. v5p and v4 are named after their cores, of which a chip has two.
chips() {
  local count=${EMOJAX_TYPE##*-}
  case ${EMOJAX_TYPE%-*} in
    v5litepod | v6e) ;;
    v5p | v4) count=$((count / 2)) ;;
    *) refuse "--type $EMOJAX_TYPE is none of v5litepod-N, v6e-N, v5p-N, v4-N" ;;
  esac
  echo $((count * EMOJAX_SLICES))
}

price() { # USD per chip-hour
  local generation region demand spot
  [[ -n $EMOJAX_PRICE ]] && echo "$EMOJAX_PRICE" && return
  while read -r generation region demand spot; do
    [[ $generation == "${EMOJAX_TYPE%-*}" && $region == "${EMOJAX_ZONE%-*}" ]] || continue
    if [[ $EMOJAX_SPOT == true ]]; then echo "$spot"; else echo "$demand"; fi
    return
  done <<<"$PRICES"
  refuse "no price is known here for $EMOJAX_TYPE in ${EMOJAX_ZONE%-*}: give --price, from" \
    "https://cloud.google.com/tpu/pricing"
}

cost() { # CHIPS PRICE HOURS: USD
  awk -v chips="$1" -v price="$2" -v hours="$3" 'BEGIN { printf "%.2f\n", chips * price * hours }'
}
