#!/usr/bin/env bash
# What is worth knowing of a GPU machine in one go, in under nine minutes: bash portable/session.sh LOG_FOLDER [STEP...]
# Steps, in their order: doctor kernels ops golden engine latency, which run by default; sanitize and startup, which must be named.
# Each has a time limit and a log of its own; a step that fails does not keep the next from running. One line each is printed.
# Exit code 1 when a step failed.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
known="doctor kernels ops golden engine latency sanitize startup"
usage() { echo "usage: session.sh LOG_FOLDER [STEP...], with steps out of: $known" >&2; exit 2; }
[[ $# -ge 1 ]] || usage
folder=$1
shift
selected=" ${*:-doctor kernels ops golden engine latency} "
for name in $selected; do [[ " $known " == *" $name "* ]] || usage; done
mkdir -p "$folder"
logs=$(cd "$folder" && pwd)
deadline=$((SECONDS + 525))
failures=0

say() { echo "$*" | tee -a "$logs/summary.txt"; }

wanted() { [[ $selected == *" $1 "* ]]; }

step() { # NAME SECONDS COMMAND...: runs the command in the bundle, if the step is wanted
  local name=$1 limit=$2 started=$SECONDS code=0 result=ok
  shift 2
  wanted "$name" || return
  ((limit > deadline - SECONDS)) && limit=$((deadline - SECONDS))
  if ((limit < 5)); then
    say "$name: not run, no time is left"
    failures=$((failures + 1))
    return
  fi
  timeout -k 5 "$limit" bash "$here/run.sh" "$@" >"$logs/$name.log" 2>&1 || code=$?
  if [[ $code == 0 ]] && grep -q '^GPU tests skipped' "$logs/$name.log"; then code=1; fi # here that is no success
  [[ $code == 0 ]] || failures=$((failures + 1))
  if [[ $code == 124 || $code == 137 ]]; then result="stopped at its limit of $limit s"; elif [[ $code != 0 ]]; then result="exit code $code"; fi
  say "$name: $result after $((SECONDS - started)) s | $(grep -v '^[[:space:]]*$' "$logs/$name.log" | tail -1 | cut -c1-240)"
}

details() { # STEP PATTERN: lines of its log, each once
  wanted "$1" || return
  grep -hE "$2" "$logs/$1.log" 2>/dev/null | awk '!seen[$0]++' | head -40 | cut -c1-240 | while read -r line; do say "  $line"; done
}

: >"$logs/summary.txt"
bash "$here/run.sh" true || { say "the bundle cannot be unpacked"; exit 1; }

step doctor 40 bash -c 'nvidia-smi; kvasir doctor'
step kernels 130 bash -c '
  shopt -s nullglob
  bad=0
  for bench in build/cuda/bench/*_cuda_bench; do
    echo "=== ${bench##*/}"
    timeout --foreground -k 5 45 "$bench" || { echo "${bench##*/}: exit code $?"; bad=$((bad + 1)); }
  done
  echo "=== $bad of $(ls build/cuda/bench | wc -l) programs failed"
  exit $((bad > 0))'
details kernels '\bFAIL|exit code'
step ops 120 node scripts/test-gpu.js test/ops
details ops '^ +● '
step golden 75 node scripts/test-gpu.js test/gpu/golden
details golden '^ +● '
step engine 150 node scripts/test-gpu.js test/gpu --testPathIgnorePatterns=golden
details engine '^ +● '
step latency 240 node scripts/bench-gpu.js --kernels bandwidth --torch none --limit 60
wanted latency && bash "$here/run.sh" node -e '
  for (const line of require("fs").readFileSync(process.argv[1], "utf8").split("\n").filter((l) => l.startsWith("{"))) {
    const r = JSON.parse(line);
    const part = (x) => (typeof x === "number" ? `${(100 * x).toFixed(1)}%` : "unknown");
    if (r.readGBs) console.log(`  read bandwidth ${r.readGBs} GB/s on ${r.device}`);
    if (r.secondsPerDecodeStep) console.log(`  ${r.model} batch ${r.batchSize}: ${(1e3 * r.secondsPerDecodeStep).toFixed(3)} ms/step, ${r.decodeTokensPerSecond?.toFixed(0)} tok/s, ${part(r.shareOfFloor)} of the floor, prefill ${r.prefillTokensPerSecond?.toFixed(0)} tok/s`);
    if (r.error) console.log(`  ${r.source}: ${r.error.slice(0, 200)}`);
  }' "$logs/latency.log" | tee -a "$logs/summary.txt"
step sanitize 420 node scripts/sanitize-gpu.js --limit 150
details sanitize '^[a-z]+check, [a-z0-9]+: |^=+ (Invalid|Error:|Race|ERROR SUMMARY|RACECHECK SUMMARY)'
# 16 GB of random weights are written first, and removed afterwards.
step startup 240 bash -c '
  dir=$(mktemp -d)
  node scripts/bench-startup.js "$dir" --make examples/configs/llama-3-8b.json --device cuda --max-model-len 2048 --max-load-seconds 6
  code=$?
  rm -rf "$dir"
  exit $code'
details startup '^\{'
say "$failures step(s) failed, $SECONDS s in all"
exit $((failures > 0))
