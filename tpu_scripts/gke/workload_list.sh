#!/usr/bin/env bash
# Lists the workloads of the cluster.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster"
about="usage: gke/workload_list.sh --project P [options]

Lists the workloads of the cluster, with the state of each."
start "$@"
guard cluster

retry xpk workload list --cluster="$EMOJAX_CLUSTER" --project="$EMOJAX_PROJECT" --zone="$EMOJAX_ZONE"
