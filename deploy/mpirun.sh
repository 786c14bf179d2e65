#!/usr/bin/env bash
# Runs a kvasir command as N ranks under Open MPI:
#   deploy/mpirun.sh 2 generate MODEL --prompt "Once upon a time"
# Several hosts: HOSTFILE=hosts MASTER_ADDR=first-host deploy/mpirun.sh 2 generate MODEL --tensor-parallel-secret-file FILE ..
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 RANKS COMMAND [ARGUMENT ..]" >&2; exit 2; }
ranks=$1
shift
options=(-np "$ranks" --bind-to none)
[ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
[ -z "${HOSTFILE:-}" ] || options+=(--hostfile "$HOSTFILE")
# Without a list of hosts all ranks are here, however few cores there are.
[ -n "${HOSTFILE:-}" ] || options+=(--oversubscribe)
for name in MASTER_ADDR MASTER_PORT; do
  [ -z "${!name:-}" ] || options+=(-x "$name")
done
cli="$(dirname "$0")/../dist/cli/main.js"
if [ -f "$cli" ]; then command=(node "$cli"); else command=(npx kvasir); fi
exec mpirun "${options[@]}" "${command[@]}" "$@" --tensor-parallel-size "$ranks"
