#!/usr/bin/env bash
# Ends a workload; the cluster stays.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster workload"
about="usage: gke/workload_delete.sh --project P [options]

Ends the workload and forgets it. The cluster with its slices stays, and is billed: see
gke/cluster_delete.sh."
start "$@"
guard cluster

retry xpk workload delete --workload="$EMOJAX_WORKLOAD" --cluster="$EMOJAX_CLUSTER" \
  --project="$EMOJAX_PROJECT" --zone="$EMOJAX_ZONE" --force
