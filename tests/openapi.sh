#!/usr/bin/env bash
# Has schemathesis try the service against its own OpenAPI document, with all its checks.
#
#   python3 -m venv /tmp/schemathesis && /tmp/schemathesis/bin/pip install schemathesis
#   SCHEMATHESIS=/tmp/schemathesis/bin/schemathesis tests/openapi.sh [more arguments for `schemathesis run`]
#
# It starts the server of target/release, or that of target/debug, on a free port of the loopback interface over a new
# ledger in a temporary directory, and ends it. TELLER names another binary; EXAMPLES says how many requests each
# operation gets in each phase (100); SECONDS_MAX bounds the whole run (600). Exits with schemathesis's code, or 1 if
# the server has ended or has answered anything with a 5xx.
set -euo pipefail
cd "$(dirname "$0")/.."

schemathesis=${SCHEMATHESIS:-schemathesis}
teller=${TELLER:-}
if [[ -z $teller ]]; then
    for built in target/release/teller target/debug/teller; do
        [[ -x $built ]] && teller=$built && break
    done
fi
[[ -n $teller ]] || { echo "build teller first: cargo build" >&2; exit 1; }

directory=$(mktemp -d)
server=
cleanup() {
    if [[ -n $server ]] && kill -0 "$server" 2>/dev/null; then
        kill "$server"
        wait "$server" || true
    fi
    rm -rf "$directory"
}
trap cleanup EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$teller" serve --host 127.0.0.1 --port "$port" --data-dir "$directory" --log warn 2>"$directory/log" &
server=$!
origin=http://127.0.0.1:$port
for _ in $(seq 100); do
    curl --silent --fail --output /dev/null "$origin/readyz" && break
    kill -0 "$server" 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
    sleep 0.1
done

code=0
timeout "${SECONDS_MAX:-600}" "$schemathesis" --config-file tests/openapi.toml run "$origin/openapi.json" \
    --checks all --mode all --max-examples "${EXAMPLES:-100}" --generation-database none "$@" || code=$?

if ! kill -0 "$server" 2>/dev/null; then
    echo "the server has ended:" >&2
    cat "$directory/log" >&2
    exit 1
fi
# Readiness was asked for before there was any.
if curl --silent --fail "$origin/metrics" | grep 'status="5xx"' | grep -v 'route="/readyz"'; then
    echo "the server has failed requests:" >&2
    cat "$directory/log" >&2
    exit 1
fi
exit "$code"
