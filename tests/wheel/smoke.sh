#!/bin/sh
# Installs a wheel into new environments outside the checkout and tries it there.
# Usage: smoke.sh PYTHON WHEEL
set -eu
python=$1
wheel=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

echo "wheel: client only"
"$python" -m venv base
base/bin/python -m pip install --quiet --disable-pip-version-check "$wheel"
base/bin/python -c "import losswire; print('losswire', losswire.__version__)"
status=0
base/bin/losswire serve 2>said || status=$?
test "$status" -eq 2
grep -q "pip install 'losswire\[server\]'" said

echo "wheel: client and server"
"$python" -m venv full
full/bin/python -m pip install --quiet --disable-pip-version-check "$wheel[server]"
full/bin/python "$here/smoke.py"
echo "1 passed, 0 failed"
