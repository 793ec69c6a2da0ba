#!/usr/bin/env bash
# Durable deposits, or reads, against an empty hyper server that gives the same replies, with wrk as the load. That one has
# one thread or as many as there are cores, whichever is faster in a few rounds before.
#
#   benches/wrk.sh [deposit|read] [connections] [rounds]
#
# Needs wrk, curl and target/release/teller. Rounds of a second each, in turn, the next time the other way round; prints of
# each server the median rate and 99th percentile, and the median and range of the ratios of each pair of rounds. The
# ledger is a temporary one in data/.
set -euo pipefail
cd "$(dirname "$0")/.."

workload=${1:-deposit} connections=${2:-256} rounds=${3:-12} accounts=10000
teller=target/release/teller
case $workload in deposit | read) ;; *) echo "wrk.sh: the workload is deposit or read" >&2; exit 2 ;; esac
for needed in wrk curl "$teller"; do
    command -v "$needed" >/dev/null || { echo "wrk.sh: $needed is not there; install or build it" >&2; exit 1; }
done

mkdir -p data
directory=$(mktemp -d data/wrk.XXXXXX)
pids=()
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$directory"
}
trap finish EXIT

# The address that a server says it listens on, in the file that it writes to.
address_in() {
    for _ in $(seq 100); do
        address=$(sed -n 's/.*listens on \(http:.*\)/\1/p' "$1")
        [ -n "$address" ] && { echo "$address"; return; }
        sleep 0.1
    done
    echo "wrk.sh: a server does not start" >&2
    return 1
}

"$teller" --port 0 --data-dir "$directory" --log warn >"$directory/teller.out" &
server=$!
pids+=("$server")
ledger=$(address_in "$directory/teller.out")
curl -sf --retry 50 --retry-all-errors --retry-delay 1 -o "$directory/ready" "$ledger/readyz"
seq -f '{"type": "open", "name": "a%.0f"}' "$accounts" |
    curl -sf -H 'Content-Type: application/x-ndjson' --data-binary @- -o "$directory/opened" \
        "$ledger/v2/batches?results=refused"

if [ "$workload" = deposit ]; then
    curl -sfi -d '{"amount": 10.25}' "$ledger/accounts/a1/deposit" >"$directory/reply"
    request='wrk.format("POST", path .. "/deposit", {["Content-Type"] = "application/json"}, "{\"amount\": 10.25}")'
else
    curl -sfi "$ledger/accounts/a1" >"$directory/reply"
    request='wrk.format("GET", path)'
fi

cat >"$directory/load.lua" <<LUA
local requests, next_one = {}, 0
function init()
    for i = 1, 20000 do
        local path = "/accounts/a" .. math.random($accounts)
        requests[i] = $request
    end
end
function request()
    next_one = next_one % #requests + 1
    return requests[next_one]
end
LUA

# One round: requests a second, and the 99th percentile in microseconds.
round() {
    wrk -t1 -c"$connections" -d1s --latency -s "$directory/load.lua" "$1" | awk '
        /Non-2xx|Socket errors/ { print "wrk.sh: " $0 > "/dev/stderr"; failed = 1 }
        $1 == "99%" { unit = $2; gsub(/[0-9.]/, "", unit); p99 = $2 * (unit == "us" ? 1 : unit == "ms" ? 1000 : 1000000) }
        $1 == "Requests/sec:" { rate = $2 }
        END { print rate, p99; exit failed }'
}

# Waits until the ledger has done what the round before left to do, so that the next one is not measured beside it. A
# ledger that still works after half a minute is no basis for a figure.
settle() {
    local before now
    for _ in $(seq 100); do
        before=$(awk '{ print $14 + $15 }' "/proc/$server/stat")
        sleep 0.3
        now=$(awk '{ print $14 + $15 }' "/proc/$server/stat")
        [ "$now" = "$before" ] && return
    done
    echo "wrk.sh: the ledger does not come to rest: there is no figure" >&2
    exit 1
}

median() { sort -g | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }

# The bare server, warmed up, with each number of threads; then three rounds of each, in turn. The faster one is compared.
numbers=$(printf '%s\n' 1 "$(nproc)" | sort -u)
settle
for threads in $numbers; do
    "$teller" bench bare --threads "$threads" <"$directory/reply" >"$directory/bare-$threads.out" &
    pids+=($!)
    round "$(address_in "$directory/bare-$threads.out")" >/dev/null
done
for _ in 1 2 3; do
    for threads in $numbers; do
        round "$(address_in "$directory/bare-$threads.out")" >>"$directory/trials-$threads"
    done
done
threads=$(for threads in $numbers; do
    echo "$(awk '{ print $1 }' "$directory/trials-$threads" | median) $threads"
done | sort -g | awk 'END { print $2 }')
bare=$(address_in "$directory/bare-$threads.out")

round "$ledger" >/dev/null
for turn in $(seq "$rounds"); do
    settle
    if ((turn % 2)); then
        of_ledger=$(round "$ledger")
        settle
        of_bare=$(round "$bare")
    else
        of_bare=$(round "$bare")
        settle
        of_ledger=$(round "$ledger")
    fi
    echo "$of_ledger $of_bare"
done >"$directory/rounds"

column() { awk "{ print $1 }" "$directory/rounds"; }
echo "$workload, $connections connections, $rounds pairs of rounds of 1 s, medians; bare with --threads $threads"
printf 'teller  %8.0f/s  p99 %5.0f us\n' "$(column '$1' | median)" "$(column '$2' | median)"
printf 'bare    %8.0f/s  p99 %5.0f us\n' "$(column '$3' | median)" "$(column '$4' | median)"
printf 'teller / bare: throughput %.3f (%.3f to %.3f), p99 %.2f\n' "$(column '$1 / $3' | median)" \
    "$(column '$1 / $3' | sort -g | head -n 1)" "$(column '$1 / $3' | sort -g | tail -n 1)" \
    "$(column '$2 / $4' | median)"
