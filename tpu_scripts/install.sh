#!/usr/bin/env bash
# Installs emojax on every worker and mounts the bucket there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
takes="project zone name slices delete-on-exit bucket mount source python gcsfuse"
about="usage: install.sh --project P --bucket B [options]

On every worker of every slice: a Python that is new enough, a virtual environment with emojax[tpu],
and the bucket mounted at --mount. --source checkout copies the files that git tracks beside this
script, as they are now; --source git+https://...@REF installs from a repository. May be run again.

example: install.sh --project my-project --bucket my-runs --source git+https://host/you/emojax@v1.0"
start "$@"
checkout="$(dirname "$TPU_SCRIPTS")"
[[ $EMOJAX_SOURCE != checkout || -e $checkout/.git ]] ||
  refuse "--source checkout: $checkout is no git checkout; give --source git+https://...@REF"
guard slice

if [[ $EMOJAX_SOURCE == checkout ]]; then
  archive="$checkout/build/emojax-checkout.tar.gz"
  run mkdir -p "$checkout/build"
  run bash -o pipefail -c "git -C $(quoted "$checkout") ls-files -z | tar -C $(quoted "$checkout") -czf $(quoted "$archive") --null -T -"
  copy_to_workers "$archive" emojax-checkout.tar.gz
fi
copy_to_workers "$TPU_SCRIPTS/worker.sh" emojax-worker.sh
on_workers "$(quoted bash emojax-worker.sh install "$EMOJAX_SOURCE" "$EMOJAX_PYTHON" \
  "$EMOJAX_GCSFUSE" "$EMOJAX_BUCKET" "$EMOJAX_MOUNT")"
