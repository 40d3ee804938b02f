#!/usr/bin/env bash
# The state of the slices and of the training on them.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name slices"
about="usage: status.sh --project P [options]

The state of the queued resource, and of the training on every worker: NONE, RUNNING, DONE, FAILED."
start "$@"
guard slice

state=$(slice_state ACTIVE)
training=unknown
[[ $state != ACTIVE ]] || training=$(training_state RUNNING)
say "slices: $state, training: $training"
