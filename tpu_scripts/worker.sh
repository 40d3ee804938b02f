#!/usr/bin/env bash
# The half that runs on a worker; install.sh copies it there as ~/emojax-worker.sh.
set -euo pipefail

here=$HOME/emojax
about="usage: worker.sh install SOURCE PYTHON GCSFUSE BUCKET MOUNT | launch BUCKET MOUNT RUN COMMAND...
                | status | stop | log LINES FOLLOW

Runs on a worker. install: Python, emojax, the mounted bucket. launch: COMMAND in the background,
once. status: NONE, RUNNING, DONE or FAILED with its exit status. stop: ends it, after it saved itself."

install() { # SOURCE PYTHON GCSFUSE BUCKET MOUNT
  local what="emojax[tpu] @ $1"
  mkdir -p "$here"
  if [[ $1 == checkout ]]; then
    rm -rf "$here/source" && mkdir "$here/source"
    tar -xzf "$HOME/emojax-checkout.tar.gz" -C "$here/source"
    what="$here/source[tpu]"
  fi
  # The images bring Python 3.10. uv installs a newer one for this user alone, the same on every
  # worker, and leaves the system's Python as its tools expect it.
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  uv venv --quiet --allow-existing --python "$2" "$here/venv"
  # libtpu comes with jax[tpu] like any other package; no extra links are needed. Reinstalled, as a
  # checkout changes without changing its version.
  uv pip install --quiet --python "$here/venv/bin/python" --reinstall-package emojax "$what"
  have_gcsfuse "$3"
  mount_bucket "$4" "$5"
  "$here/venv/bin/emojax" --version
}

have_gcsfuse() { # RELEASE
  local found
  found=$(gcsfuse --version 2>/dev/null || true)
  # Releases before 3 do not know all the options below.
  [[ $found =~ version\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 3)) && return
  curl --fail --silent --show-error --location --retry 5 --output "$here/gcsfuse.deb" \
    "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$1/gcsfuse_$1_amd64.deb"
  # A worker that has just started may still be updating itself.
  sudo apt-get -o DPkg::Lock::Timeout=600 install --yes --quiet "$here/gcsfuse.deb"
}

# Many workers write here, and one must see at once what another wrote: no cached metadata. On TPU
# machines gcsfuse would otherwise keep it for ever. Folders are real in the bucket (hierarchical
# namespace), so neither --implicit-dirs nor --rename-dir-limit is needed.
mount_bucket() { # BUCKET MOUNT
  if ! mountpoint --quiet "$2"; then
    sudo mkdir -p "$2"
    sudo chown "$(id -u):$(id -g)" "$2"
    gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
      --kernel-list-cache-ttl-secs=0 --stat-cache-max-size-mb=0 --type-cache-max-size-mb=0 "$1" "$2"
  fi
  if ! mkdir -p "$2/runs" "$2/logs"; then
    echo "error: $(hostname) cannot write to gs://$1: give the workers' account" \
      "roles/storage.objectUser on it (create.sh --service-account does)" >&2
    return 1
  fi
}

# The lock is held by the training and whatever it started, for as long as any of them lives.
running() { ! flock --nonblock "$here/lock" true; }

launch() { # BUCKET MOUNT RUN COMMAND...
  mount_bucket "$1" "$2"
  if running; then
    echo "error: a training runs already on $(hostname)" >&2
    return 3
  fi
  rm -f "$here/pid"
  setsid nohup bash "$0" train "$2/logs/$3" "${@:4}" </dev/null >>"$here/train.log" 2>&1 &
  for _ in {1..100}; do
    [[ -f $here/pid ]] && echo "launched on $(hostname)" && return
    sleep 0.1
  done
  echo "error: nothing was started on $(hostname), see its log" >&2
  return 1
}

train() { # LOGS COMMAND...
  local status=0
  exec 9>"$here/lock"
  flock --nonblock 9 || exit 3
  echo lost >"$here/result" # unless the end below is reached
  echo "--- $(date --utc +%FT%TZ) $(hostname): ${*:2}"
  PATH="$here/venv/bin:$PATH" "${@:2}" &
  trap 'kill -TERM $!' TERM
  echo $! >"$here/pid"
  wait $! || status=$?
  # A signal ends the wait, not the training, which saves itself first.
  while kill -0 $! 2>/dev/null; do
    status=0
    wait $! || status=$?
  done
  echo "--- $(date --utc +%FT%TZ) ended with exit status $status"
  echo "$status" >"$here/result"
  mkdir -p "$1" && cp "$here/train.log" "$1/$(hostname).log"
}

status() {
  local result="NONE"
  if [[ -e $here/lock ]] && running; then
    result="RUNNING"
  elif [[ -f $here/result ]]; then
    result=$(<"$here/result")
    if [[ $result == 0 ]]; then result="DONE"; else result="FAILED ($result)"; fi
  fi
  echo "emojax-worker $result $(hostname)"
}

stop() {
  [[ -e $here/lock ]] && running || return 0
  kill -TERM "$(<"$here/pid")" 2>/dev/null || true
  for _ in {1..600}; do
    running || return 0
    sleep 0.2
  done
  kill -KILL "$(<"$here/pid")" 2>/dev/null || true
  flock --wait 10 "$here/lock" true
}

log() { # LINES FOLLOW
  local follow=()
  [[ $2 == true ]] && follow=(--follow=name --retry)
  tail --lines="$1" "${follow[@]}" "$here/train.log"
}

case ${1:-} in
  install | launch | train | status | stop | log) "$@" ;;
  --help | -h) echo "$about" ;;
  *) echo "$about" >&2 && exit 2 ;;
esac
