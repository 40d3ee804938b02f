#!/usr/bin/env bash
# Starts training as a workload of the cluster.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project zone cluster type slices workload image mount run max-restarts"
about="usage: gke/workload_create.sh --project P --image ADDRESS [options] [-- ARGUMENTS OF emojax train]

Starts on every worker of every slice
  emojax train --out MOUNT/runs/RUN [ARGUMENTS] --distributed --resume
The cluster starts it again after a preemption or an error, --max-restarts times, and it goes on from
its last checkpoint. A --config of ARGUMENTS is a file of the image, as experiments/mosi.toml is, or
of the bucket. A second workload of the same name is refused by the cluster.

example: gke/workload_create.sh --project my-project --image ADDRESS -- --set mesh.fsdp=16"
start "$@"
guard cluster

# xpk starts anew for 42 and from 127 on, which a signal gives; 1 is what emojax ends with when
# another worker went away. A training that saves itself has two minutes for it.
retry xpk workload create --workload="$EMOJAX_WORKLOAD" --cluster="$EMOJAX_CLUSTER" \
  --project="$EMOJAX_PROJECT" --zone="$EMOJAX_ZONE" --tpu-type="$EMOJAX_TYPE" \
  --num-slices="$EMOJAX_SLICES" --docker-image="$EMOJAX_IMAGE" \
  --max-restarts="$EMOJAX_MAX_RESTARTS" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds=120 \
  "--command=$(quoted emojax train --out "$EMOJAX_MOUNT/runs/$EMOJAX_RUN" "${rest[@]}" --distributed --resume)"
