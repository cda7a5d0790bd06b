#!/usr/bin/env bash
# Starts the built simulator on a free port and runs the checks against it.
# Usage: ./run.sh [path of the hub-simulator program]
set -euo pipefail
cd "$(dirname "$0")"
program=${1:-../../target/debug/hub-simulator}
[ -d node_modules ] || npm ci --no-audit --no-fund

state=$(mktemp -d)
mkfifo "$state/commands" "$state/answers"
"$program" --amqps-port 0 --mqtts-port 0 --https-port 0 --state "$state" --env-file "$state/hub.env" --quiet \
  <"$state/commands" >"$state/answers" 2>"$state/log" &
hub=$!
exec 3>"$state/commands" 4<"$state/answers"
stop() {
  kill "$hub" 2>/dev/null || true
  wait "$hub" 2>/dev/null || true
  rm -rf "$state"
}
trap stop EXIT
for _ in $(seq 100); do
  [ -f "$state/hub.env" ] && break
  sleep 0.1
done
[ -f "$state/hub.env" ] || { cat "$state/log" >&2; exit 1; }
# shellcheck disable=SC1091
. "$state/hub.env"
HUB_CONTROL=1 node check_device_amqp.js
