#!/usr/bin/env bash
# Makes the bucket and requests the slices; waits until they are there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name type slices spot runtime valid-for service-account wait delete-on-exit bucket"
about="usage: create.sh --project P --bucket B [options]

Makes the bucket for run folders where it is missing, requests the slices as a queued resource, and
waits until Google has given them. Billing starts when the state becomes ACTIVE. A request that is
there already is waited for, not made twice. Exit status: 0 done, 1 error, 2 wrong usage, 75 no
capacity now, try again later.

examples:
  create.sh --project my-project --bucket my-runs --type v5litepod-16 --spot
  create.sh --project my-project --bucket my-runs --type v5litepod-16 --slices 4   # multislice"
start "$@"

runtime() { # the software Google names for JAX: https://cloud.google.com/tpu/docs/runtimes
  case $EMOJAX_RUNTIME,$EMOJAX_TYPE in
    ?*,*) echo "$EMOJAX_RUNTIME" ;;
    ,v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    ,v6e-*) echo v2-alpha-tpuv6e ;;
    ,v5p-*) echo v2-alpha-tpuv5 ;;
    ,v4-*) echo tpu-ubuntu2204-base ;;
    *) refuse "--type $EMOJAX_TYPE has no known --runtime; give one" ;;
  esac
}

request_slices() {
  local nodes=(--node-id="$EMOJAX_NAME") options=()
  ((EMOJAX_SLICES > 1)) && nodes=(--node-count="$EMOJAX_SLICES" --node-prefix="$EMOJAX_NAME")
  [[ $EMOJAX_SPOT == true ]] && options+=(--spot)
  [[ -n $EMOJAX_SERVICE_ACCOUNT ]] && options+=(--service-account="$EMOJAX_SERVICE_ACCOUNT")
  retry gcloud compute tpus queued-resources create "$EMOJAX_NAME" --project="$EMOJAX_PROJECT" \
    --zone="$EMOJAX_ZONE" "${nodes[@]}" --accelerator-type="$EMOJAX_TYPE" \
    --runtime-version="$version" --valid-until-duration="$EMOJAX_VALID_FOR" "${options[@]}" --async
}

version=$(runtime)
ensure_bucket
guard slice
state=$(slice_state ABSENT)
if [[ $state == ABSENT ]]; then
  status=0
  request_slices || status=$?
  # An error may come after the request was accepted; only the list of requests knows.
  state=$(slice_state ACTIVE)
  ((status == 0)) || [[ $state != ABSENT ]] || exit "$status"
  ((status == 0)) || say "The request failed, and $EMOJAX_NAME is there all the same: going on with it."
else
  say "$EMOJAX_NAME is there already ($state): no second request is made."
fi

while [[ $EMOJAX_WAIT == true ]]; do
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED | ABSENT)
      say "error: $EMOJAX_NAME is $state: no capacity within $EMOJAX_VALID_FOR, or taken away." \
        "Delete it, then request again, perhaps in another zone or with another type."
      exit "$TRY_LATER"
      ;;
  esac
  say "$EMOJAX_NAME: $state"
  pause "${EMOJAX_POLL_SECONDS:-30}"
  state=$(slice_state ACTIVE)
done
