#!/usr/bin/env bash
# Deletes the cluster with its slices, and looks until it is gone.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster"
about="usage: gke/cluster_delete.sh --project P [options]

Deletes the cluster with its slices and whatever runs on them, and waits until it is gone. The bucket
with the runs stays."
start "$@"
guard cluster

delete_guarded || { let_go && exit 1; }
let_go
say "Gone: cluster $EMOJAX_CLUSTER."
