#!/bin/sh
# Follows the Containerfile in a clean Debian root, then runs a slide there as a user without a name, on a read-only
# file system and without a network. It needs root, debootstrap and Debian's mirror, but no container runtime:
#   containers/try_in_clean_root.sh ROOT slide.svs        # ROOT/data/results has the results
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
root=$(realpath -m "$1")
slide=$(realpath "$2")

if [ ! -d "$root" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
fi
mkdir -p "$root/source" "$root/data"
git -C "$top" archive HEAD | tar -x -C "$root/source"
cp "$slide" "$root/data/"
chown -R 1000:1000 "$root/data"

export TOP="$top" ROOT="$root" NAME="$(basename "$slide")"
unshare --mount sh -eu <<'BUILD'
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
for file in /etc/resolv.conf /etc/hosts /etc/ssl; do
    [ -d "$file" ] || touch "$ROOT$file"
    mount --bind "$file" "$ROOT$file"
done
chroot "$ROOT" /bin/sh -eu -c '
    python3 -m venv /opt/venv
    PATH=/opt/venv/bin:$PATH
    python3 -m pip wheel --quiet --no-deps --wheel-dir /wheel /source
    cp /source/containers/install.sh /source/envs/constraints.txt /source/envs/hashes.txt /wheel/
    sh /wheel/install.sh cpu
    rm -r /wheel /source'
BUILD
unshare --mount --net sh -eu <<'RUN'
mount --bind "$ROOT" "$ROOT"
mount --bind "$ROOT/data" "$ROOT/data"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -o remount,bind,ro "$ROOT"
set -- $(sed -n 's/^ENV //p' "$TOP/Containerfile")
env -i PATH=/opt/venv/bin:/usr/sbin:/usr/bin:/bin "$@" chroot --userspec=1000:1000 "$ROOT" /bin/sh -eu -c '
    cd /data
    muse workflow study --slides .
    muse run "$1" -o results
    cd study
    snakemake --cores 2' sh "$NAME"
RUN
