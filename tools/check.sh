#!/usr/bin/env bash
# Lint: format, include directions, words and paths that don't belong, shell scripts, clang-tidy on changed files.
#
#   tools/check.sh            tidy the files changed since the merge base with the main line
#   tools/check.sh --all      tidy every file
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
failed=0
step() { # title, command...
  local title=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "ok    $title"
  else
    echo "FAIL  $title"
    echo "$output" | head -60
    failed=1
  fi
}

mapfile -t sources < <(git ls-files '*.cc' '*.h')
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)

step "clang-format" clang-format --dry-run -Werror "${sources[@]}"
step "include directions" python3 tools/check_includes.py
step "shell scripts" shellcheck -S warning "${scripts[@]}"
data_fits() {
  local kib
  kib=$(git ls-files -z models tests/data | xargs -0 du -ck | tail -n1 | cut -f1)
  echo "models/ and tests/data/ hold $kib KiB"
  ((kib <= 81920))
}
step "data size (at most 80 MiB)" data_fits

# What changed: since the merge base with the main line, else since the last commit, else the last commit itself.
changed() {
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD origin/master 2>/dev/null || true)
  if [[ -z $base || $base == $(git rev-parse HEAD) ]]; then base=$(git rev-parse -q --verify HEAD~1 || git hash-object -t tree /dev/null); fi
  git diff --name-only --diff-filter=d "$base" -- '*.cc' | grep -v '^tests/'
}
if [[ ${1:-} == --all ]]; then
  mapfile -t tidy < <(git ls-files '*.cc' | grep -v '^tests/')
else
  mapfile -t tidy < <(changed)
fi
if ((${#tidy[@]})); then
  [[ -f build/release/build.ninja ]] || cmake --preset release >/dev/null
  # Generated protocol headers must exist before files that include them can be read.
  ninja -C build/release alphecca_proto alphecca_proto_grpc >/dev/null
  # Less the flags that only GCC knows.
  mkdir -p build/tidy
  sed -E 's/ -(fno-tree-reassoc|Wno-maybe-uninitialized)\b//g' build/release/compile_commands.json >build/tidy/compile_commands.json
  run_tidy() { printf '%s\n' "${tidy[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy -quiet -p build/tidy; }
  step "clang-tidy (${#tidy[@]} files)" run_tidy
fi
exit $failed
