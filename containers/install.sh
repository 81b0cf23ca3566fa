#!/bin/sh
# Installs the wheel next to this script with an extra (cpu or gpu) and the tested versions of its dependencies, for the Containerfile and for muse-pipeline.def.
set -eu
extra=$1
folder=$(dirname "$0")
if [ "$extra" = cpu ]; then # files whose checksums are in the repository
    python3 -m pip install --no-cache-dir --require-hashes --requirement "$folder/hashes.txt"
fi
for wheel in "$folder"/muse_pipeline-*.whl; do
    python3 -m pip install --no-cache-dir --constraint "$folder/constraints.txt" "$wheel[$extra,workflow]"
done
muse doctor
