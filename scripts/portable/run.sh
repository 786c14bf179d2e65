#!/usr/bin/env bash
# Unpacks the bundle beside this file (once; again when an archive changed) and runs a command in it, with its own Node.js on PATH:
#   bash portable/run.sh kvasir doctor
#   bash portable/run.sh node scripts/test-gpu.js
#   bash portable/run.sh jest test/ops/norm.test.js
# The folder is /tmp/kvasir, or what KVASIR_PORTABLE_ROOT names. Needs bash, tar and either xz or python3; no network.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${KVASIR_PORTABLE_ROOT:-/tmp/kvasir}

unpack() { # ARCHIVE: into $root
  if command -v xz >/dev/null; then
    tar -C "$root" -xJf "$1"
  else
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1" | tar -C "$root" -xf -
  fi
}

refresh() { # NAME: unpacks NAME.tar.xz unless what is there came from it; what it brought before is removed first
  local stamp
  stamp=$(cksum <"$here/$1.tar.xz")
  [[ -f $root/.$1.stamp && $(<"$root/.$1.stamp") == "$stamp" ]] && return
  local started=$SECONDS
  mkdir -p "$root"
  if [[ -f $root/.$1.parts ]]; then (cd "$root" && xargs rm -rf <".$1.parts"); fi
  unpack "$here/$1.tar.xz"
  printf '%s' "$stamp" >"$root/.$1.stamp"
  echo "unpacked $1.tar.xz into $root in $((SECONDS - started)) s" >&2
}

[[ $# -gt 0 ]] || { echo "usage: run.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
refresh base
refresh app
export PATH="$root/bin:$PATH" KVASIR_SHARED="$root/shared"
cd "$root"
exec "$@"
