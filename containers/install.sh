#!/bin/sh
# Installs the wheel beside this script with one extra (cpu, gpu); the steps of both images.
set -eu
extra=$1
for wheel in "$(dirname "$0")"/muse_pipeline-*.whl; do
    python3 -m pip install --no-cache-dir "$wheel[$extra]"
done
muse doctor
