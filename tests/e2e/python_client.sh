#!/bin/sh
# python_client.sh - the client at the end of docs/protocol.md runs as it stands there.

. "$QUERN_TEST_DATA/support/tap.sh"

if ! command -v python3 >/dev/null 2>&1; then
    echo "1..0 # SKIP no python3"
    exit 77
fi
folder=$(mktemp -d) || exit 1
trap 'kill $server $proxy 2>/dev/null; rm -rf "$folder"' EXIT
server= proxy=

sed -n '/^```python$/,/^```$/p' "$QUERN_TEST_DATA/../docs/protocol.md" | sed '/^```/d' >"$folder/client.py"

# The storyteller, greedy: the same story each time.
mkdir "$folder/model"
for file in "$QUERN_DATADIR"/models/storyteller/*; do ln -s "$file" "$folder/model/"; done
rm "$folder/model/generation_config.json"
echo '{"do_sample": false}' >"$folder/model/generation_config.json"

# wait_for PATH: a socket.
wait_for()
{
    for _ in $(seq 200); do [ -S "$1" ] && return; sleep 0.1; done
    return 1
}

# A connection's first 2000 bytes from the server pass, then it is cut: the first one's.
cat >"$folder/proxy.py" <<'PROXY'
import socket, sys, threading

def pump(a, b, most):
    while (data := a.recv(200 if most else 65536)):
        b.sendall(data)
        if most and (most := most - len(data)) <= 0:
            break
    for s in a, b:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
for most in 2000, 0, 0, 0:
    client, _ = listener.accept()
    print("connection", flush=True)
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    threading.Thread(target=pump, args=(client, server, 0)).start()
    threading.Thread(target=pump, args=(server, client, most)).start()
PROXY

"$QUERN" serve -m "$folder/model" --socket "$folder/socket" 2>"$folder/server" &
server=$!
wait_for "$folder/socket" || exit 1
python3 "$folder/proxy.py" "$folder/socket" "$folder/cut" >"$folder/cuts" &
proxy=$!
wait_for "$folder/cut" || exit 1

tap_plan 4
"$QUERN" run --socket "$folder/socket" -n 64 "Once upon a time" >"$folder/want" 2>/dev/null
timeout 60 python3 "$folder/client.py" "$folder/socket" "Once upon a time" >"$folder/said" 2>&1
tap_check $? "the_document_s_python_client_ends_in_good_order"
[ "$(wc -w <"$folder/said")" -ge 20 ] && cmp "$folder/said" "$folder/want"
tap_check $? "it_gets_what_quern_run_gets"
tap_note "$(cat "$folder/said")"
timeout 60 python3 "$folder/client.py" "$folder/cut" "Once upon a time" >"$folder/said" 2>&1
cmp "$folder/said" "$folder/want" && [ "$(wc -l <"$folder/cuts")" -eq 2 ]
tap_check $? "it_takes_up_an_answer_whose_connection_was_cut"
tap_note "$(cat "$folder/said" "$folder/cuts")"
timeout 60 python3 "$folder/client.py" "$folder/socket" "" >"$folder/said" 2>&1
[ $? -eq 1 ] && grep -q 'the prompt is empty' "$folder/said"
tap_check $? "it_says_what_the_server_said_was_wrong"
kill -TERM $server $proxy
wait $server
tap_done
