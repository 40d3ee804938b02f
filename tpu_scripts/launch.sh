#!/usr/bin/env bash
# Starts training on every worker, in the background there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name slices delete-on-exit bucket mount run config restart"
about="usage: launch.sh --project P --bucket B [options] [-- ARGUMENTS OF emojax train]

Starts on every worker of every slice, detached from the connection,
  emojax train --out MOUNT/runs/RUN [--config FILE] [ARGUMENTS] --distributed --resume
JAX finds the other workers by itself, over several slices too. A run that is there goes on from its
last checkpoint. Where a training runs already nothing is started and the exit status is 3.

examples:
  launch.sh --project my-project --bucket my-runs --run demo
  launch.sh --project my-project --bucket my-runs --run big --config big.toml -- --set mesh.fsdp=16"
start "$@"
[[ -z $EMOJAX_CONFIG || -f $EMOJAX_CONFIG ]] || refuse "--config: $EMOJAX_CONFIG is not there"
guard slice

training=$(training_state NONE)
case $training in
  LOST) die "not every worker of $EMOJAX_NAME answers; status.sh tells more" ;;
  RUNNING)
    if [[ $EMOJAX_RESTART != true ]]; then
      say "A training runs already on $EMOJAX_NAME; --restart stops it first."
      exit "$ALREADY_RUNS"
    fi
    ;;
esac
# What failed on one worker may still wait for it on the others.
[[ $EMOJAX_RESTART == true || $training == FAILED ]] && on_workers "bash emojax-worker.sh stop"

train=(emojax train --out "$EMOJAX_MOUNT/runs/$EMOJAX_RUN")
if [[ -n $EMOJAX_CONFIG ]]; then
  copy_to_workers "$EMOJAX_CONFIG" emojax-config.toml
  train+=(--config emojax-config.toml)
fi
on_workers "$(quoted bash emojax-worker.sh launch "$EMOJAX_BUCKET" "$EMOJAX_MOUNT" "$EMOJAX_RUN" \
  "${train[@]}" "${rest[@]}" --distributed --resume)"
