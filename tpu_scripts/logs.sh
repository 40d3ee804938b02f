#!/usr/bin/env bash
# Shows the training's log as it grows.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name slices slice worker lines follow"
about="usage: logs.sh --project P [options]

Shows the log of one worker, or of --worker all, and follows it until Ctrl-C, which ends the showing
and not the training. When a training ends its log is also copied to logs/RUN in the bucket.

example: logs.sh --project my-project --slice 1 --worker all --no-follow --lines 20"
start "$@"
mapfile -t names < <(slices_of)
[[ -n ${names[EMOJAX_SLICE]:-} ]] || refuse "--slice $EMOJAX_SLICE: there are slices 0 to $((EMOJAX_SLICES - 1))"
guard slice

run gcloud compute tpus tpu-vm ssh "${names[EMOJAX_SLICE]}" --project="$EMOJAX_PROJECT" \
  --zone="$EMOJAX_ZONE" --worker="$EMOJAX_WORKER" \
  "--command=bash emojax-worker.sh log $EMOJAX_LINES $EMOJAX_FOLLOW" --quiet
