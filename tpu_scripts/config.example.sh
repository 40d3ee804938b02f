# shellcheck shell=bash disable=SC2034
# Settings of your own: copy this to config.sh beside it (which git ignores) and edit, or name a copy
# with --settings. Every option of every script may stand here, as EMOJAX_ and its name in capitals;
# `SCRIPT --help` lists them with their defaults. A variable of the environment beats this file, the
# command line beats both.

EMOJAX_PROJECT=my-project     # gcloud projects list
EMOJAX_BUCKET=my-project-runs # made where it is missing, in the region of the zone

EMOJAX_ZONE=us-west4-a        # https://cloud.google.com/tpu/docs/regions-zones
EMOJAX_TYPE=v5litepod-16
EMOJAX_SLICES=1
EMOJAX_SPOT=true

EMOJAX_RUN=demo
EMOJAX_BUDGET=40              # USD, for supervise.sh

# Waiting and trying again: variables without an option, here with their defaults.
# EMOJAX_POLL_SECONDS=30      between two looks at a state
# EMOJAX_RETRY_SECONDS=10     before the first new try of a command; twice as long before each next
# EMOJAX_RETRIES=6            tries of a command whose error passes by itself
# EMOJAX_DELETE_LOOKS=60      looks at what is being deleted before it is called not deleted
# EMOJAX_BILLS=~/.emojax-tpu  where supervise.sh keeps what was spent
