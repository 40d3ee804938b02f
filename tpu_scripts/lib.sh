# shellcheck shell=bash
# What all scripts share: settings, --help and --dry-run here, and what deals with Google in
# cloud.sh. A script sources this file, sets `takes` and `about`, and calls `start "$@"`.

set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: these scripts need bash 4.4 or newer, this is $BASH_VERSION" >&2
  exit 2
fi

TPU_SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$TPU_SCRIPTS/cloud.sh"

takes='' about='' dry_run=false

readonly USAGE=2

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
