#!/bin/sh
# Create or update the environment that `make` works in; `environment.sh where` only prints its folder.
#
# An active environment that has torch is used: missing packages are added, its torch is not changed. Otherwise .venv is
# created with the versions of constraints.txt, and with the CPU build of torch where the package index has one.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export SRKD_WITHOUT_APP=1 # an editable install uses the demo's app in the working tree, where `make app` builds it

say() { echo "environment: $*" >&2; }
stop() { say "$*"; exit 1; }
install() { sh scripts/install.sh "$python" "$@"; }

environment=$PWD/.venv active=
for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
  [ -n "$folder" ] && [ "$folder" != "$PWD/.venv" ] && [ -z "$active" ] && [ -x "$folder/bin/python" ] || continue
  has_torch="import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
  if "$folder/bin/python" -c "$has_torch"; then active=yes environment=$folder; fi
done
python=$environment/bin/python
if [ "${1:-}" = where ]; then echo "$environment"; exit; fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop \
  "srkd needs Python 3.10 or newer and this is $("$PYTHON" -V 2>&1): choose another one, as in \`make PYTHON=python3.12 test\`"
state=$({ pwd; "$PYTHON" -V; cat pyproject.toml constraints.txt scripts/environment.sh; } | cksum)
stamp=$environment/.srkd-environment
[ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && exit

hint="see pip's message above (\`make clean\` starts over)"
if [ -n "$active" ]; then
  torch=$("$python" -c "import importlib.metadata as m; print(m.version('torch'))")
  say "using the active environment $environment and its torch $torch"
  install "torch==$torch" -e ".[dev]" || stop "pip could not install srkd: $hint"
else
  if ! [ -x "$python" ] || [ "$("$python" -V)" != "$("$PYTHON" -V)" ]; then
    say "creating .venv with $("$PYTHON" -V) (once; downloads about 400 MB)"
    "$PYTHON" -m venv --clear "$environment" || stop "cannot create $environment (on Debian and Ubuntu: apt install python3-venv)"
  fi
  torch=$(grep '^torch==' constraints.txt)
  set -- -c constraints.txt
  if ! { [ -n "${TORCH_INDEX:-}" ] && install "$@" "$torch" --index-url "$TORCH_INDEX" 2>/dev/null; } &&
    ! { [ "$(uname)" = Linux ] && install "$@" "$torch+cpu" 2>/dev/null; }; then
    [ "$(uname)" != Linux ] || say "the package index has no CPU build of torch: installing the default one (gigabytes if it" \
      "has CUDA); set TORCH_INDEX to PyTorch's CPU wheel index to avoid it"
    install "$@" "$torch" || stop "cannot install $torch: $hint"
  fi
  install "$@" hatchling && install "$@" --no-build-isolation -e ".[dev]" || stop "pip could not install srkd: $hint"
fi
echo "$state" >"$stamp"
