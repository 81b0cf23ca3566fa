#!/bin/sh
# Installs the wheel next to this script with an extra (cpu or gpu), for the Containerfile and for muse-pipeline.def.
set -eu
extra=$1
for wheel in "$(dirname "$0")"/muse_pipeline-*.whl; do
    python3 -m pip install --no-cache-dir "$wheel[$extra]"
done
muse doctor
