#!/usr/bin/env bash
# Copies a run from the bucket; needs no slice.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project bucket run out checkpoints"
about="usage: fetch.sh --project P --bucket B [options]

Copies the run's folder from the bucket to OUT/RUN, without its checkpoints unless --checkpoints is
given. Only what is new is copied, and no slice is needed. Evaluating a run needs its checkpoints.

example: fetch.sh --project my-project --bucket my-runs --run demo --checkpoints"
start "$@"

exclude=('--exclude=(^|/)checkpoints/.*')
[[ $EMOJAX_CHECKPOINTS == true ]] && exclude=()
run mkdir -p "$EMOJAX_OUT/$EMOJAX_RUN"
retry gcloud storage rsync "gs://$EMOJAX_BUCKET/runs/$EMOJAX_RUN" "$EMOJAX_OUT/$EMOJAX_RUN" \
  --recursive "${exclude[@]}" --project="$EMOJAX_PROJECT"
