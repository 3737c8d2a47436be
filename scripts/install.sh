#!/bin/sh
# Install packages into the environment of a Python: `install.sh PYTHON WORDS...`, with the words of `pip install`.
#
# uv does it, in a fifth of pip's time: the machine's, else one in build/uv. It does not read pip's settings, so it is told
# the folders of packages that pip has. If uv cannot be had, or fails, pip does it, and its message is the one shown.
set -u
cd "$(dirname "$0")/.."
python=$1
shift
uv=$(command -v uv || echo build/uv/bin/uv)
if ! [ -x "$uv" ]; then
  new=build/uv-$$
  "$python" -m pip install -qq --disable-pip-version-check --no-deps -c constraints.txt --target "$new" uv 2>/dev/null
  [ -d build/uv ] || mv "$new" build/uv 2>/dev/null
  rm -rf "$new"
fi
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
"$uv" pip install -qq --python "$python" "$@" 2>/dev/null || "$python" -m pip install -q --disable-pip-version-check "$@"
