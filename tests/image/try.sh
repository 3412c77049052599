#!/usr/bin/env bash
# Builds the images with buildah. Starts the server in the one for processors, asks it for a loss, and
# stops it; in the one for GPUs, CuPy and its compiler are there, and only the driver is missing.
#
# usage: tests/image/try.sh PYTHON
#   PYTHON: an interpreter that has losswire, for the client's side
#
# Needs buildah, and where python:3.13-slim cannot be pulled, debootstrap and root to stand in for it:
# Debian with the same Python. Flags of the build, for mirrors or certificates: IMAGE_BUILD_FLAGS.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
base=docker.io/library/python:3.13-slim
image=losswire:cpu
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

if ! buildah inspect --type image "$base" >/dev/null 2>&1 && ! buildah pull --quiet "$base" 2>/dev/null; then
  echo "image: $base cannot be pulled; Debian stands in for it"
  root=$(mktemp -d)
  debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates trixie "$root/root" >"$root/log" ||
    { tail -5 "$root/log"; exit 1; }
  ln -s /usr/bin/python3 "$root/root/usr/local/bin/python"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$root/root" / >/dev/null
  buildah commit --quiet "$container" "$base" >/dev/null
  buildah rm "$container" >/dev/null
  rm -rf "$root"
fi

# Authorities that pip was told of here are those of the build as well.
flags=${IMAGE_BUILD_FLAGS:-}
if [ -n "${PIP_CERT:-}" ]; then
  folder=$(dirname "$PIP_CERT")
  flags="$flags --volume $folder:$folder:ro --env PIP_CERT=$PIP_CERT"
fi

for target in cpu cuda; do
  # shellcheck disable=SC2086 -- several flags
  buildah build --quiet --format docker --pull-never --file docker/Dockerfile --target "$target" \
    --tag "losswire:$target" $flags .
done

container=$(buildah from --pull-never "$image")
work=$(mktemp -d)
log=$work/log
finish() {
  buildah rm "$container" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

# The entry point, the user and the check are the image's own.
configured() {
  buildah inspect --type image "$image" |
    "$python" -c "import json, sys; print(json.load(sys.stdin)['Docker']['config']$1)"
}
read -r -a entry < <(configured "['Entrypoint']" | tr -d "[],'")
[ "$(configured "['User']")" = 10001:10001 ] || { echo "image: runs as root"; exit 1; }
[ "$(configured "['Healthcheck']['Test']")" = "['CMD', 'losswire', 'check']" ] ||
  { echo "image: has no health check"; exit 1; }

socket=$(buildah run "$container" -- mktemp --dry-run /tmp/losswire-XXXXXX.sock)
buildah run "$container" -- "${entry[@]}" --unix-socket "$socket" --engine numpy >"$log" 2>&1 &
running=$!
mount=$(buildah mount "$container")
for _ in $(seq 100); do
  buildah run "$container" -- losswire check --target "unix:$socket" >/dev/null 2>&1 && break
  kill -0 "$running" 2>/dev/null || { cat "$log"; echo "image: the server ended"; exit 1; }
done

ln -s "$mount$socket" "$work/socket" # the whole path is too long for a socket's
"$python" - "unix:$work/socket" <<'END'
import sys

import losswire

with losswire.Client(sys.argv[1]) as client:
    loss = client.softmax_cross_entropy([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]], [0, 1]).loss
    assert [f"{each:.6f}" for each in loss] == ["0.464369", "1.180270"], loss
    print("image: serves", client.server_info().version, "on", client.server_info().device)
END

# By what it says itself: buildah's own processes have the same words in their arguments.
server=$(sed --quiet 's/.*"pid": \([0-9]*\).*"serving".*/\1/p' "$log")
ps -o uid= -p "$server" | grep --quiet 10001 || { echo "image: the server runs as root"; exit 1; }
kill -TERM "$server"
if wait "$running"; then echo "image: stopped in good order"; else
  cat "$log"
  echo "image: did not stop in good order"
  exit 1
fi
grep --quiet '"event": "stopped"' "$log" || { cat "$log"; echo "image: no word of its end"; exit 1; }

# The host's driver is not in the container, so that the server can but say so, in a line.
gpu=$(buildah from --pull-never losswire:cuda)
trap 'buildah rm "$gpu" >/dev/null 2>&1 || true; finish' EXIT
buildah run "$gpu" -- python -c 'import cupy; print("image: cuda has NVRTC", cupy.cuda.nvrtc.getVersion())'
status=0
buildah run "$gpu" -- "${entry[@]}" --insecure >"$log" 2>&1 || status=$?
if [ "$status" = 2 ] && grep --quiet 'cupy cannot be used: CuPy finds no CUDA driver' "$log"; then
  echo "image: cuda says what it misses"
else
  cat "$log"
  echo "image: cuda ended with $status"
  exit 1
fi
