# shellcheck shell=bash
# What all scripts share: settings and --help, --dry-run, retries, and the promise that nothing
# that costs money stays behind unannounced. A script sources this file, sets `takes` and `about`,
# and calls `start "$@"`.

set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: these scripts need bash 4.4 or newer, this is $BASH_VERSION" >&2
  exit 2
fi

TPU_SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
takes='' about='' guarded=nothing dry_run=false

# shellcheck disable=SC2034  # some are used by the scripts alone
readonly USAGE=2 ALREADY_RUNS=3 MISSING=44 TRY_LATER=75

# option | default | meaning. Each is also the variable EMOJAX_OPTION, in capitals.
readonly OPTIONS='project||Google Cloud project (required)
zone|us-west4-a|zone that offers the type
name|emojax|name of the queued resource; its slices are NAME, or NAME-0, NAME-1, ...
type|v5litepod-16|accelerator: v5litepod-N and v6e-N (N chips), v5p-N and v4-N (N cores, 2 a chip)
slices|1|number of slices; more than one is multislice
spot|false|spot capacity: cheaper, may be taken away at any moment
runtime||TPU software version (from the type where left empty)
valid-for|24h|give the request up when there was no capacity for so long
service-account||account the workers act as; gets access to the bucket (empty: the default one)
wait|true|wait until the slices are there
delete-on-exit|false|when this fails or is interrupted, delete the slices instead of naming them
bucket||Cloud Storage bucket for run folders, without gs:// (required)
mount|/mnt/emojax|where the workers see the bucket
source|checkout|what to install: checkout (the tracked files beside this script) or git+https://...@REF
python|3.12|Python of the virtual environment (emojax needs 3.11 or newer)
gcsfuse|3.12.1|gcsfuse release to install where the worker has none of version 3 or newer
run|demo|name of the run: its folder in the bucket is runs/RUN
config||TOML file of settings for training, copied to the workers
restart|false|stop a training that runs already, then launch
worker|0|worker whose log is shown, a number or all
slice|0|slice whose log is shown
lines|100|lines of log to begin with
follow|true|go on showing new lines
budget||most that all attempts together may cost, in USD (required)
max-attempts|20|most launches, the first included
max-crashes|3|give up after so many failures of training or installing in a row
keep|false|do not delete the slices when training is done or given up
hours|1|hours of training to estimate
price||USD per chip-hour, instead of the one in prices.sh
out|results|local folder that results are copied to
checkpoints|false|copy checkpoints too
cluster|emojax|name of the GKE cluster
workload|emojax|name of the workload
image||address of the container image, as docker push takes it (required)
max-restarts|20|most restarts of the workload, after preemption or error'

dry() { [[ $dry_run == true ]]; }

say() { dry || printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

refuse() {
  printf 'error: %s\n' "$*" >&2
  exit "$USAGE"
}

variable_of() {
  local name=${1^^}
  printf 'EMOJAX_%s' "${name//-/_}"
}

help_text() {
  local option default meaning form
  printf '%s\n\noptions:\n' "$about"
  while IFS='|' read -r option default meaning; do
    [[ " $takes " == *" $option "* ]] || continue
    case $default in
      true | false) form="--[no-]$option" ;;
      *) form="--$option VALUE" ;;
    esac
    printf '  %-24s %s [%s]\n' "$form" "$meaning" "$default"
  done <<<"$OPTIONS"
  printf '  %-24s %s\n' \
    "--settings FILE" "settings to read [tpu_scripts/config.sh where it is there]" \
    "--dry-run" "print the commands that would run, run none" \
    "--help" "this text"
  printf '\n%s\n' "A command line beats an environment variable (EMOJAX_ZONE for --zone), which beats the
settings file (see tpu_scripts/config.example.sh), which beats the default in brackets."
}

# The settings of this script, from the command line, the environment, the settings file and the
# defaults, in this order; exported, so that a script called by this one has them too.
start() {
  local option default meaning variable word value settings="${EMOJAX_SETTINGS:-$TPU_SCRIPTS/config.sh}"
  local -A given=() kind=()
  dry_run=${EMOJAX_DRY_RUN:-false}
  rest=()
  while IFS='|' read -r option default meaning; do
    [[ " $takes " == *" $option "* ]] || continue
    kind[$option]=value
    [[ $default == true || $default == false ]] && kind[$option]=switch
    variable=$(variable_of "$option")
    [[ -n ${!variable:-} ]] && given[$option]=${!variable}
  done <<<"$OPTIONS"

  while (($#)); do
    word=$1
    shift
    case $word in
      --help | -h) help_text && exit 0 ;;
      --dry-run) dry_run=true && continue ;;
      --settings | --settings=*) option=settings ;;
      --)
        rest=("$@")
        break
        ;;
      --no-*) option=${word#--no-} ;;
      --*) option=${word#--} ;;
      *) refuse "$word is not an option; --help lists them" ;;
    esac
    option=${option%%=*}
    if [[ ${kind[$option]:-} == switch ]]; then
      value=true
      [[ $word == --no-* ]] && value=false
      [[ $word == *=* ]] && value=${word#*=}
      [[ $value == true || $value == false ]] || refuse "--$option is true or false, not $value"
    elif [[ $option == settings || ${kind[$option]:-} == value ]]; then
      if [[ $word == *=* ]]; then
        value=${word#*=}
      else
        (($#)) || refuse "$word needs a value"
        value=$1
        shift
      fi
    else
      refuse "unknown option $word; --help lists them"
    fi
    if [[ $option == settings ]]; then
      settings=$value
      [[ -f $settings ]] || refuse "--settings: $settings is not there"
    else
      given[$option]=$value
    fi
  done

  # shellcheck source=/dev/null
  [[ -f $settings ]] && source "$settings"
  while IFS='|' read -r option default meaning; do
    [[ -z ${kind[$option]:-} ]] && continue
    variable=$(variable_of "$option")
    value=${given[$option]:-${!variable:-$default}}
    [[ -z $value && $meaning == *'(required)' ]] && refuse "--$option (or $variable) is missing: $meaning"
    export "$variable=$value"
  done <<<"$OPTIONS"
  export EMOJAX_DRY_RUN=$dry_run EMOJAX_SETTINGS=$settings
  check_settings
  exec 3>&1 # commands of a dry run, also from inside $(...)
  dry || { scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT; }
}

check_settings() {
  local option
  for option in slices lines max-attempts max-crashes max-restarts; do
    number "$option" '^[1-9][0-9]*$' "a whole number from 1"
  done
  for option in budget hours price; do
    number "$option" '^[0-9]*[.]?[0-9]+$' "a number"
  done
  for option in name cluster workload; do
    number "$option" '^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$' \
      "small letters, digits and hyphens, a letter first, at most 39"
  done
  number run '^[A-Za-z0-9][-A-Za-z0-9_.]*$' "letters, digits, hyphens, underscores and dots"
  number bucket '^[a-z0-9][-a-z0-9_.]+$' "a bucket's name without gs://"
  number type '^[a-z0-9]+-[1-9][0-9]*$' "like v5litepod-16"
  number worker '^([0-9]+|all)$' "a worker's number or all"
  number slice '^[0-9]+$' "a slice's number"
  number mount '^/[-A-Za-z0-9_./]+$' "an absolute path"
}

number() { # OPTION PATTERN WHAT: refuse a value of another form
  local variable
  variable=$(variable_of "$1")
  [[ " $takes " != *" $1 "* || -z ${!variable} || ${!variable} =~ $2 ]] ||
    refuse "--$1 must be $3, not '${!variable}'"
}

quoted() { # the words on one line that a shell reads back as the same words
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s' "${line# }"
}

show() { printf '%s\n' "$(quoted "$@")" >&3; }

run() { if dry; then show "$@"; else "$@"; fi; }

pause() { # interruptible, unlike a sleep in the foreground
  dry && return 0
  sleep "$1" &
  nap=$!
  wait "$nap"
}

# Run a command; again after a growing while on errors that pass by themselves. Returns MISSING
# where the resource does not exist, TRY_LATER when it did not pass, 1 with the fix when it stays.
retry() {
  local delay=${EMOJAX_RETRY_SECONDS:-10} most=${EMOJAX_RETRIES:-6} try errors
  if dry; then
    show "$@"
    return 0
  fi
  errors=$(mktemp "$scratch/XXXXXX")
  for ((try = 1; ; try++)); do
    if [[ $1 == xpk ]]; then # long, asks questions, and says its errors on standard output
      PYTHONUNBUFFERED=1 "$@" 2>&1 | tee "$errors" >&2 && return 0
    else
      "$@" 2>"$errors" && cat "$errors" >&2 && return 0
    fi
    diagnose "$(<"$errors")"
    [[ $verdict == missing ]] && return "$MISSING"
    [[ $1 == xpk ]] || cat "$errors" >&2
    [[ $verdict == stays ]] && say "$fix" && return 1
    if ((try == most)); then
      say "tried $most times; this passes by itself, so try again later"
      return "$TRY_LATER"
    fi
    say "this may pass: again in $delay s (try $((try + 1)) of $most)"
    pause "$delay"
    delay=$((delay * 2 > 300 ? 300 : delay * 2))
  done
}

diagnose() { # MESSAGE: sets verdict (missing, passes, stays) and fix
  local text=" ${1,,} "
  verdict=stays
  case $text in
    *"limit: 0 "* | *"limit: 0."* | *"limit 0 "*)
      fix="fix: the project has no quota for this type in this zone; ask for it (IAM & Admin, Quotas, \"TPU\")" ;;
    *"has not been used in project"* | *service_disabled* | *"api is not enabled"* | *accessnotconfigured*)
      fix="fix: gcloud services enable tpu.googleapis.com storage.googleapis.com --project=$EMOJAX_PROJECT" ;;
    *"locations/"*"may not exist"* | *"invalid zone"* | *"unknown zone"* | *"invalid value for [--zone]"*)
      fix="fix: --zone names no TPU zone; gcloud compute tpus locations list --project=$EMOJAX_PROJECT" ;;
    *"runtime version"* | *runtimeversion* | *runtime_version* | *"software version"*)
      fix="fix: --runtime; gcloud compute tpus tpu-vm versions list --project=$EMOJAX_PROJECT --zone=$EMOJAX_ZONE" ;;
    *"accelerator type"* | *acceleratortype* | *accelerator_type*)
      fix="fix: --type; gcloud compute tpus accelerator-types list --project=$EMOJAX_PROJECT --zone=$EMOJAX_ZONE" ;;
    *publickey*)
      fix="fix: ssh-add ~/.ssh/google_compute_engine, then try again" ;;
    *"active account"* | *reauthenticat* | *invalid_grant*)
      fix="fix: gcloud auth login" ;;
    *permission_denied* | *"permission denied"* | *"does not have permission"* | *"permission '"*)
      fix="fix: the account needs roles/tpu.admin, roles/storage.admin and roles/iam.serviceAccountUser in $EMOJAX_PROJECT" ;;
    *not_found* | *"not found"*) verdict=missing ;;
    *resource_exhausted* | *[!0-9]429[!0-9]* | *"no more capacity"* | *"quota exceeded"* | \
      *[!0-9]503[!0-9]* | *unavailable* | *deadline* | *"timed out"* | *"connection reset"* | \
      *"internal error"* | *"try again"*) verdict=passes ;;
    *) fix="fix: none known for this message; nothing is tried again" ;;
  esac
}

# The queued resource and its slices

place() { printf '%s\n' "--project=$EMOJAX_PROJECT" "--zone=$EMOJAX_ZONE"; }

slice_delete_command() {
  printf '%s\n' gcloud compute tpus queued-resources delete "$EMOJAX_NAME"
  place
  printf '%s\n' --force --quiet --async
}

# The state Google names, or ABSENT. A dry run prints the question and takes ASSUMED for the answer.
state_of() { # ASSUMED COMMAND...
  local state status=0
  state=$(retry "${@:2}") || status=$?
  case $status in
    0) if dry; then echo "$1"; else echo "$state"; fi ;;
    "$MISSING") echo ABSENT ;;
    *) return "$status" ;;
  esac
}

slice_state() { # ASSUMED
  state_of "$1" gcloud compute tpus queued-resources describe "$EMOJAX_NAME" \
    --project="$EMOJAX_PROJECT" --zone="$EMOJAX_ZONE" '--format=value(state.state)'
}

cluster_delete_command() {
  printf '%s\n' xpk cluster delete "--cluster=$EMOJAX_CLUSTER"
  place
  printf '%s\n' --force
}

cluster_state() { # ASSUMED
  state_of "$1" gcloud container clusters describe "$EMOJAX_CLUSTER" \
    --project="$EMOJAX_PROJECT" --region="${EMOJAX_ZONE%-*}" '--format=value(status)'
}

slices_of() { # names of the slices, one a line
  local i
  if ((EMOJAX_SLICES == 1)); then
    echo "$EMOJAX_NAME"
  else
    for ((i = 0; i < EMOJAX_SLICES; i++)); do echo "$EMOJAX_NAME-$i"; done
  fi
}

# Run COMMAND once for each slice, {slice} standing for its name: all at once, and all are waited for.
on_slices() { # COMMAND...
  local slice pids=() failed=() i
  local -a names
  mapfile -t names < <(slices_of)
  for slice in "${names[@]}"; do
    if dry; then
      retry "${@//\{slice\}/$slice}"
    else
      # A shell in the background ignores Ctrl-C unless told otherwise.
      (trap - INT EXIT && retry "${@//\{slice\}/$slice}") &
      pids+=("$!")
    fi
  done
  for i in "${!pids[@]}"; do
    wait "${pids[i]}" || failed+=("${names[i]}")
  done
  ((${#failed[@]} == 0)) || { say "error: failed on slice ${failed[*]}" && return 1; }
}

on_workers() { # COMMAND: on every worker of every slice
  on_slices gcloud compute tpus tpu-vm ssh '{slice}' --project="$EMOJAX_PROJECT" \
    --zone="$EMOJAX_ZONE" --worker=all "--command=$1" --quiet
}

# What training does, over all workers: NONE, RUNNING, DONE, FAILED, or LOST where a worker does not
# answer. One process that failed is a failed training: the others can only wait for it.
training_state() { # ASSUMED
  local lines
  lines=$(EMOJAX_RETRIES=2 on_workers "test ! -f emojax-worker.sh || bash emojax-worker.sh status") ||
    { echo LOST && return 0; }
  dry && echo "$1" && return 0
  say "$lines"
  case $lines in
    *"emojax-worker FAILED"*) echo FAILED ;;
    *"emojax-worker RUNNING"*) echo RUNNING ;;
    *"emojax-worker DONE"*) echo DONE ;;
    *) echo NONE ;;
  esac
}

copy_to_workers() { # FILE NAME
  on_slices gcloud compute tpus tpu-vm scp "$1" "{slice}:$2" --project="$EMOJAX_PROJECT" \
    --zone="$EMOJAX_ZONE" --worker=all --quiet
}

# The promise. What a script may have paid for is guarded: at its end, however it comes, it is
# named together with the command that deletes it, or deleted where the user asked for that.

guard() { # slice or cluster
  guarded=$1
  trap at_end EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

at_end() {
  local status=$? state
  # Whatever happens below, what is left is said. (A bare `return` here would return what was the
  # status before the trap: functions called from here give theirs.)
  set +e
  trap '' INT TERM
  [[ -n ${nap:-} ]] && kill "$nap" 2>/dev/null
  [[ -n ${child:-} ]] && kill "$child" 2>/dev/null && wait "$child"
  if [[ ${EMOJAX_ANNOUNCE:-true} == true && $guarded != nothing ]] && { ((status == 0)) || ! dry; }; then
    state=$(EMOJAX_RETRIES=2 "${guarded}_state" ACTIVE) || state=UNKNOWN
    if dry; then
      :
    elif [[ $state == ABSENT ]]; then
      say "Nothing is left behind: there is no $guarded $(guarded_name)."
    elif ((status != 0)) && [[ ${EMOJAX_DELETE_ON_EXIT:-false} == true ]]; then
      say "Deleting what is left ($state), as --delete-on-exit says."
      delete_guarded || status=1
    else
      announce "$state"
    fi
  fi
  [[ -n ${scratch:-} ]] && rm -rf "$scratch"
  exit "$status"
}

guarded_name() { if [[ $guarded == cluster ]]; then echo "$EMOJAX_CLUSTER"; else echo "$EMOJAX_NAME"; fi; }

announce() { # STATE
  local -a command
  mapfile -t command < <("${guarded}_delete_command")
  say "STILL THERE, AND MAY COST MONEY: $guarded $(guarded_name) in $EMOJAX_ZONE" \
    "($1). Delete it with: $(quoted "${command[@]}")"
}

# Delete, and look until it is gone: a delete that was accepted is not yet one that happened.
delete_guarded() {
  local -a command
  local state status=0 looks=${EMOJAX_DELETE_LOOKS:-60}
  mapfile -t command < <("${guarded}_delete_command")
  retry "${command[@]}" >&2 || status=$?
  if ((status == 0)); then
    while ((looks-- > 0)); do
      state=$("${guarded}_state" ABSENT) || break
      [[ $state == ABSENT ]] && return 0
      pause "${EMOJAX_POLL_SECONDS:-30}"
    done
  elif ((status == MISSING)); then
    return 0
  fi
  announce "${state:-UNKNOWN}, NOT DELETED"
  return 1
}

# The bucket. Checkpoints are renamed when complete, and a folder's name changes at once only in a
# bucket with a hierarchical namespace, which has to be chosen when the bucket is made.
ensure_bucket() {
  local hierarchical status=0
  hierarchical=$(retry gcloud storage buckets describe "gs://$EMOJAX_BUCKET" --raw \
    --project="$EMOJAX_PROJECT" '--format=value(hierarchicalNamespace.enabled)') || status=$?
  if dry || ((status == MISSING)); then
    retry gcloud storage buckets create "gs://$EMOJAX_BUCKET" --project="$EMOJAX_PROJECT" \
      --location="${EMOJAX_ZONE%-*}" --uniform-bucket-level-access --enable-hierarchical-namespace
  elif ((status != 0)); then
    exit "$status"
  elif [[ ${hierarchical,,} != true ]]; then
    die "bucket $EMOJAX_BUCKET has no hierarchical namespace, which checkpoints rely on and which" \
      "cannot be added later: name another with --bucket, it is made where it is missing"
  fi
  [[ -z ${EMOJAX_SERVICE_ACCOUNT:-} ]] ||
    retry gcloud storage buckets add-iam-policy-binding "gs://$EMOJAX_BUCKET" \
      --member="serviceAccount:$EMOJAX_SERVICE_ACCOUNT" --role=roles/storage.objectUser \
      --project="$EMOJAX_PROJECT" >/dev/null
}
