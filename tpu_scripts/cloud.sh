# shellcheck shell=bash
# What deals with Google: commands that are tried again, the state of what costs money, and the
# promise that none of it stays behind unannounced. lib.sh brings it to every script.

# shellcheck disable=SC2034  # ALREADY_RUNS is the scripts'
readonly ALREADY_RUNS=3 MISSING=44 TRY_LATER=75
guarded=nothing

# Run a command; again after a growing while on errors that pass by themselves. Returns TRY_LATER
# when they did not, 1 with the fix when the error stays, and MISSING in silence where the caller
# asks whether a thing exists (may_miss=true).
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
    [[ $verdict == missing && ${may_miss:-} == true ]] && return "$MISSING"
    [[ $1 == xpk ]] || cat "$errors" >&2
    [[ $verdict == passes ]] || { say "$fix" && return 1; }
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
    *not_found* | *"not found"*)
      verdict=missing
      fix="fix: what the message names does not exist; it may be misspelt, or deleted" ;;
    *resource_exhausted* | *[!0-9]429[!0-9]* | *"no more capacity"* | *"quota exceeded"* | \
      *[!0-9]503[!0-9]* | *unavailable* | *deadline* | *"timed out"* | *"connection reset"* | \
      *"internal error"* | *"try again"*) verdict=passes ;;
    *) fix="fix: none known for this message; nothing is tried again" ;;
  esac
  # What a worker says of itself is not what Google says.
  [[ ${remote:-} != true || $verdict == passes || $fix == *ssh-add* || $fix == *"auth login"* ]] ||
    fix="fix: the command failed on a worker, which says why above"
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
  state=$(may_miss=true retry "${@:2}") || status=$?
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
  remote=true on_slices gcloud compute tpus tpu-vm ssh '{slice}' --project="$EMOJAX_PROJECT" \
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

let_go() { guarded=nothing; } # it is gone, or was announced already

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
  may_miss=true retry "${command[@]}" >&2 || status=$?
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
  hierarchical=$(may_miss=true retry gcloud storage buckets describe "gs://$EMOJAX_BUCKET" --raw \
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
