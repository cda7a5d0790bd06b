#!/usr/bin/env bash
# Starts the built simulator once, on free ports, and runs Microsoft's SDKs against it.
# Usage: interop/run.sh [path of the hub-simulator program]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
program=$(realpath "${1:-$root/target/debug/hub-simulator}")

# Installed anew only if what is asked for has changed.
if ! cmp -s "$here/node/package-lock.json" "$here/node/node_modules/installed-lock.json"; then
  (cd "$here/node" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2 \
    && cp package-lock.json node_modules/installed-lock.json)
fi
venv=$root/target/interop-venv
if ! cmp -s "$here/python/requirements.txt" "$venv/requirements.txt"; then
  rm -rf "$venv"
  # There are wheels of uamqp for these.
  for python in python3.13 python3.12 python3.11; do
    "$python" -m venv "$venv" 2>/dev/null && break
  done
  [ -d "$venv" ] || { echo 'Python 3.11, 3.12 or 3.13 is needed' >&2; exit 1; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt" >&2
  cp "$here/python/requirements.txt" "$venv/requirements.txt"
fi

state=$(mktemp -d)
"$program" --amqps-port 0 --mqtts-port 0 --https-port 0 --control-port 0 \
  --consumer-group owners --consumer-group one --consumer-group two --consumer-group three --consumer-group four \
  --state "$state" --env-file "$state/hub.env" --quiet </dev/null >"$state/out" 2>"$state/log" &
hub=$!
stop() {
  kill "$hub" 2>/dev/null || true
  wait "$hub" 2>/dev/null || true
  rm -rf "$state"
}
trap stop EXIT
for _ in $(seq 100); do
  [ -f "$state/hub.env" ] && break
  kill -0 "$hub" 2>/dev/null || break
  sleep 0.1
done
[ -f "$state/hub.env" ] || { cat "$state/log" >&2; exit 1; }
# shellcheck disable=SC1091
. "$state/hub.env"
# Without it the checks of faults would be left out.
: "${HUB_CONTROL_URL:?is not in the variables that the simulator wrote}"
export HUB_CONSUMER_GROUPS=one,two,three,four

# The closing lines are kept for the sum, and shown with what they are of.
passed=0 failed=0 status=0
run() {
  local name=$1 line total='no closing line'; shift
  while IFS= read -r line; do
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
      total="$line"
      passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
    else
      printf '%s\n' "$line"
    fi
  done < <("$@")
  wait "$!" || status=1
  printf '%s: %s\n' "$name" "$total"
}

run Node node "$here/node/run_all.js"
run Python "$venv/bin/python" -B -m pytest -v "$here/python"
echo "$passed passed, $failed failed"
exit "$status"
