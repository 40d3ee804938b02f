#!/usr/bin/env bash
# Shows the log of a workload's worker as it grows.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster workload slice worker lines follow"
about="usage: gke/logs.sh --project P [options]

Shows the log of one worker of one slice, or of --worker all, and follows it until Ctrl-C."
start "$@"
guard cluster

selector="jobset.sigs.k8s.io/jobset-name=$EMOJAX_WORKLOAD,jobset.sigs.k8s.io/job-index=$EMOJAX_SLICE"
[[ $EMOJAX_WORKER == all ]] || selector+=",batch.kubernetes.io/job-completion-index=$EMOJAX_WORKER"
retry gcloud container clusters get-credentials "$EMOJAX_CLUSTER" --project="$EMOJAX_PROJECT" \
  --region="${EMOJAX_ZONE%-*}"
run kubectl logs "--selector=$selector" --container=jax-tpu --prefix --tail="$EMOJAX_LINES" \
  --follow="$EMOJAX_FOLLOW" --max-log-requests=64
