#!/usr/bin/env bash
# What a training would cost. Runs nothing, asks nobody.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$TPU_SCRIPTS/prices.sh"
takes="zone type slices spot hours price"
about="usage: estimate.sh [options]

What the slices would cost: chips x price of a chip-hour x hours. Prices are in prices.sh and change;
--price gives another. Storage, network and, on GKE, the cluster's CPU nodes come on top.

example: estimate.sh --type v5litepod-16 --spot --hours 6"
start "$@"

number_of_chips=$(chips)
chip_hour=$(price)
how=$([[ $EMOJAX_SPOT == true ]] && echo spot || echo on-demand)
echo "$EMOJAX_SLICES x $EMOJAX_TYPE in $EMOJAX_ZONE, $how: $number_of_chips chips"
echo "USD $chip_hour a chip-hour, USD $(cost "$number_of_chips" "$chip_hour" 1) an hour"
echo "$EMOJAX_HOURS h x $number_of_chips chips x USD $chip_hour = USD" \
  "$(cost "$number_of_chips" "$chip_hour" "$EMOJAX_HOURS")"
echo "Prices change: https://cloud.google.com/tpu/pricing"
