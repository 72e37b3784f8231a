#!/usr/bin/env bash
# Installs the Debian packages that Alphecca builds with, where they are missing, and a Python environment in .venv/ for its
# tests and for the google.rpc protos. Says what it does; does nothing when all is there.
#
#   scripts/install-dependencies.sh
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  g++ cmake ninja-build ccache mold make git
  libabsl-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libyaml-cpp-dev libgtest-dev libgmock-dev libbenchmark-dev
  libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev
  prometheus-cpp-dev libcpp-httplib-dev pkg-config libjemalloc-dev libgloo-dev libcurl4-openssl-dev
  clang clang-format clang-tidy libclang-rt-dev shellcheck
  python3 python3-venv curl iproute2 ca-certificates
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  echo "installing Debian packages: ${missing[*]}"
  sudo=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "not root and no sudo: install these packages by hand" >&2; exit 1; }
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Keep in step with tests/requirements.txt: the stamp is a copy of what was installed.
if ! cmp -s tests/requirements.txt .venv/installed.txt; then
  echo "installing Python packages into .venv: $(grep -v '^#' tests/requirements.txt | tr '\n' ' ')"
  [[ -x .venv/bin/pip ]] || python3 -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt .venv/installed.txt
fi
