#!/usr/bin/env bash
# Makes the bucket and a GKE cluster with TPU slices.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster type slices spot bucket mount delete-on-exit"
about="usage: gke/cluster_create.sh --project P --bucket B [options] [-- MORE OPTIONS OF xpk]

Makes the bucket where it is missing, a cluster with node pools for the slices (xpk cluster create),
and gives every workload the bucket at --mount (xpk storage attach). Billing starts with the node
pools, for the slices and for the CPU nodes that the cluster itself needs. Run again it changes the
number of slices, or goes on after an error.

example: gke/cluster_create.sh --project my-project --bucket my-runs --type v5litepod-16 --spot"
start "$@"
capacity=--on-demand
[[ $EMOJAX_SPOT == true ]] && capacity=--spot

ensure_bucket
guard cluster
retry xpk cluster create --cluster="$EMOJAX_CLUSTER" --project="$EMOJAX_PROJECT" \
  --zone="$EMOJAX_ZONE" --tpu-type="$EMOJAX_TYPE" --num-slices="$EMOJAX_SLICES" "$capacity" \
  --enable-gcsfuse-csi-driver "${rest[@]}"
# As in worker.sh: what one worker wrote, another must see at once.
retry xpk storage attach emojax-runs --cluster="$EMOJAX_CLUSTER" --project="$EMOJAX_PROJECT" \
  --zone="$EMOJAX_ZONE" --type=gcsfuse --bucket="$EMOJAX_BUCKET" --size=1 --auto-mount=true \
  --mount-point="$EMOJAX_MOUNT" --readonly=false --no-prefetch-metadata \
  --mount-options=metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0,file-system:kernel-list-cache-ttl-secs:0
