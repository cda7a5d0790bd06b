#!/usr/bin/env bash
# libcoap's command line as a device: posts to the gateway program over plain UDP, then in a DTLS session, and hears a
# command, all with a simulated hub. Needs libcoap's clients (Debian: libcoap3-bin).
# Usage: examples/coap_client.sh [FOLDER]     FOLDER, as target/debug, has the programs; without it they are built
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "coap_client.sh: $1" >&2; exit 1; }
for client in coap-client-notls coap-client-openssl; do
  command -v $client >/dev/null || fail "there is no $client; install libcoap3-bin"
done
programs=${1:-}
if [ -z "$programs" ]; then
  cargo build -q --release -p hub-simulator -p examples --bin hub-simulator --bin gateway
  programs=${CARGO_TARGET_DIR:-target}/release
fi
work=$(mktemp -d)
hub='' gateway=''
# shellcheck disable=SC2086
trap 'kill $hub $gateway 2>/dev/null || true; rm -rf "$work"' EXIT

# The hub, told what to do on its standard input.
mkfifo "$work/commands"
exec 4< <(exec "$programs/hub-simulator" --amqps-port 0 --mqtts-port 0 --https-port 0 --device sensor-1 \
  --state "$work/hub" --env-file "$work/hub.env" --quiet <"$work/commands" 2>"$work/hub.log")
hub=$!
exec 3>"$work/commands"
ask() {
  echo "$*" >&3
  read -r -t 60 reply <&4 || fail "the hub does not answer '$*': $(cat "$work/hub.log")"
}
ask help
# shellcheck disable=SC1091
. "$work/hub.env"

# The gateway.
echo '{"sensor-1": "open-sesame"}' >"$work/tokens.json"
echo '{"a1@factory": {"device": "sensor-1", "key": "correct-horse-battery-staple"}}' >"$work/psks.json"
cat >"$work/gateway.toml" <<TOML
[upstream.amqp]
connection_string = { env = "HUB_SERVICE_CS" }
address = "127.0.0.1"
port = $HUB_AMQPS_PORT
ca_file = "$HUB_CA"
[credentials]
kind = "policy"
[downstream.coap]
udp = { listen = "127.0.0.1:0" }
identity = { tokens_file = "tokens.json" }
dtls = { listen = "127.0.0.1:0", keys_file = "psks.json" }
TOML
exec 5< <(exec "$programs/gateway" --config "$work/gateway.toml" 2>"$work/gateway.log")
gateway=$!
listening() { read -r -t 60 reply <&5 || fail "no gateway: $(cat "$work/gateway.log")"; }
listening; plain=${reply##* }
listening; secure=${reply##* }
echo "The gateway listens on $plain and $secure."

# coap ARGUMENT...: runs a client, shows the command, and keeps what it prints in `answer`.
coap() {
  printf '$ %s\n' "$*"
  answer=$("$@" 2>&1)
  [[ -z $answer ]] || echo "$answer"
}
# arrived BODY: the hub's latest message of the device has this body.
arrived() {
  ask accepted sensor-1
  echo "The hub has $reply"
  [[ $reply == *"$1"* ]] || fail "the hub does not have $1"
}

who='$.id=sensor-1&$.token=open-sesame'
coap coap-client-notls -B 30 -m post -t json -e '{"temperature":21.5}' "$plain/t?alarm=no&$who"
arrived 21.5
coap coap-client-openssl -B 30 -u a1@factory -k correct-horse-battery-staple -m post -t json -e '{"temperature":22.5}' "$secure/t"
arrived 22.5
# A command waits at the hub; the device posts and listens ten seconds for one in the answer.
ask c2d sensor-1 '{"interval":60}'
coap coap-client-notls -B 30 -m post -t json -e '{"temperature":23.5}' "$plain/t?\$.ttd=10&$who"
[[ $answer == *'{"interval":60}'* ]] || fail "no command came with the answer"
arrived 23.5
kill "$gateway"
while read -r -t 60 reply <&5; do echo "$reply"; done
