#!/usr/bin/env bash
# Deletes the slices, and looks until they are gone.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name"
about="usage: delete.sh --project P [options]

Deletes the queued resource with its slices, running or not, and waits until it is gone. The bucket
with the runs stays; it is deleted by: gcloud storage rm --recursive gs://BUCKET"
start "$@"
guard slice

state=$(slice_state ACTIVE)
if [[ $state != ABSENT ]]; then
  delete_guarded || { let_go && exit 1; }
fi
let_go
say "Gone: slice $EMOJAX_NAME in $EMOJAX_ZONE."
