#!/usr/bin/env bash
# Creates, installs, launches, watches, and does it again after a preemption, until training is done.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$TPU_SCRIPTS/prices.sh"
takes="project zone name type slices spot runtime valid-for service-account delete-on-exit bucket mount
source python gcsfuse run config budget price max-attempts max-crashes keep"
takes=${takes//$'\n'/ }
about="usage: supervise.sh --project P --bucket B --budget USD [options] [-- ARGUMENTS OF emojax train]

Trains without a human: creates the slices, installs, launches, and watches. Where the slices are
taken away (SUSPENDED, FAILED, or no worker answers) it deletes what is left, creates them anew and
launches with --resume. Where training itself, or installing it, fails it is done again, up to --max-crashes
failures in a row. It ends when training is done, at --max-attempts, or when the slices have cost --budget, counted
from prices.sh or --price and kept in EMOJAX_BILLS (~/.emojax-tpu) over several calls; then it deletes
the slices, unless --keep, which a spent budget overrules. Run it where it can stay, in tmux or on a small machine: what it watches
goes on without it, and is billed. Started again, it goes on with what it finds.
Exit status: 0 done, 1 given up, 2 wrong usage, 4 the budget is spent.

example: supervise.sh --project my-project --bucket my-runs --spot --budget 60 --run demo"
start "$@"
readonly BUDGET_SPENT=4
number_of_chips=$(chips)
chip_hour=$(price)
hourly=$(cost "$number_of_chips" "$chip_hour" 1)
guard slice

bill="${EMOJAX_BILLS:-$HOME/.emojax-tpu}/$EMOJAX_PROJECT.$EMOJAX_NAME.usd"
active_since=
attempts=0
crashes=0
lost=0
unknown=0

# The other scripts, in the background so that an interruption is heard while they work; what they
# leave behind is announced by this one.
script() {
  local status=0
  EMOJAX_ANNOUNCE=false EMOJAX_DELETE_ON_EXIT=false EMOJAX_WAIT=true EMOJAX_RESTART=false \
    "$TPU_SCRIPTS/$1" "${@:2}" &
  child=$!
  wait "$child" || status=$?
  child=
  return "$status"
}

finish() { # STATUS REASON
  say "$2"
  if [[ $EMOJAX_KEEP == true && $1 != "$BUDGET_SPENT" ]]; then
    exit "$1"
  fi
  delete_guarded || { let_go && exit 1; }
  let_go
  exit "$1"
}

attempt() {
  ((attempts++ < EMOJAX_MAX_ATTEMPTS)) || finish 1 "Given up after $EMOJAX_MAX_ATTEMPTS attempts."
  say "Attempt $attempts of $EMOJAX_MAX_ATTEMPTS."
}

charge() { # add the time since the last call, and end when the budget is spent
  local now spent
  dry && return
  now=$(date +%s)
  spent=$(awk -v before="$(cat "$bill" 2>/dev/null || echo 0)" -v usd="$hourly" \
    -v seconds=$((now - ${active_since:-$now})) \
    'BEGIN { printf "%.4f", before + seconds / 3600 * usd }')
  active_since=$now
  mkdir -p "$(dirname "$bill")" && echo "$spent" >"$bill"
  say "About USD $spent of $EMOJAX_BUDGET spent, at USD $hourly an hour."
  if awk -v spent="$spent" -v budget="$EMOJAX_BUDGET" 'BEGIN { exit !(spent >= budget) }'; then
    finish "$BUDGET_SPENT" "The budget is spent. With a larger --budget it goes on from the bucket."
  fi
}

create() {
  local status=0
  attempt
  script create.sh || status=$?
  case $status in
    0) active_since=$(date +%s) ;;
    "$TRY_LATER") pause "${EMOJAX_POLL_SECONDS:-30}" ;;
    *) exit "$status" ;;
  esac
  return "$status"
}

crashed() { # WHAT
  say "$1 failed."
  ((++crashes < EMOJAX_MAX_CRASHES)) || finish 1 "Given up: $crashes failures in a row. The log of a \
training that ended is in gs://$EMOJAX_BUCKET/logs/$EMOJAX_RUN."
}

launch() {
  local status=0
  script install.sh || { crashed Installing && return 0; }
  script launch.sh -- "${rest[@]}" || status=$?
  ((status == 0 || status == ALREADY_RUNS)) || crashed Launching
}

delete_remains() {
  delete_guarded || { let_go && exit 1; }
  active_since=
  lost=0
}

# A budget that is spent already begins nothing.
charge
active_since=
expected=ABSENT
while :; do
  state=$(slice_state "$expected") || state=UNKNOWN
  [[ $state == UNKNOWN ]] || unknown=0
  case $state in
    UNKNOWN)
      ((++unknown < 10)) || die "Google has not told the state of $EMOJAX_NAME ten times in a row."
      [[ -z $active_since ]] || charge
      ;;
    ABSENT) if create; then launch; fi ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      say "$EMOJAX_NAME is $state: taken away, or never given. It is made anew."
      delete_remains
      continue
      ;;
    ACTIVE)
      charge
      training=$(training_state DONE)
      [[ $training == LOST ]] || lost=0
      case $training in
        DONE) finish 0 "Training is done: fetch.sh copies $EMOJAX_RUN from gs://$EMOJAX_BUCKET." ;;
        RUNNING) crashes=0 ;;
        NONE)
          attempt
          launch
          ;;
        FAILED)
          crashed Training
          attempt
          launch
          ;;
        LOST)
          if ((++lost >= 3)); then
            say "No answer from the workers, three times: the slices are made anew."
            delete_remains
            continue
          fi
          ;;
      esac
      ;;
    *) create || : ;; # requested, not yet there
  esac
  expected=ACTIVE
  pause "${EMOJAX_POLL_SECONDS:-30}"
done
