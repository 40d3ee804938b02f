#!/usr/bin/env bash
# Builds the container image and pushes it.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
takes="project image"
about="usage: gke/image.sh --project P --image ADDRESS [options]

Builds the image of this checkout with Docker and pushes it to ADDRESS, which is in a repository of
your project's Artifact Registry (gcloud artifacts repositories create NAME --repository-format=docker)
that Docker may push to (gcloud auth configure-docker). Costs nothing but storage."
start "$@"

checkout="$(dirname "$TPU_SCRIPTS")"
run docker build --file "$TPU_SCRIPTS/gke/Dockerfile" --tag "$EMOJAX_IMAGE" "$checkout"
retry docker push "$EMOJAX_IMAGE"
