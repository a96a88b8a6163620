#!/bin/sh
# layers.sh - each layer of the sources includes only what lies below it.
#
# Every #include "..." names its file from include/, the top or src/. A row of
# the table below says, for one folder, which beginnings of such names it may
# use; what is not said is forbidden, and so is a folder without a row.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"

rows='
include          quern
ipc              quern/ ipc/
kernels          quern/ kernels/
src/base         quern/ base/
src/msg          quern.h quern/ base/ msg/ ipc/
src/client       quern.h base/ quern/ client/ msg/ ipc/
src/text         quern/ base/ text/ msg/ ipc/
src/program      quern/ base/ program/
src/parallel     quern/ base/ parallel/ program/ ipc/
src/checkpoint   quern/ base/ checkpoint/
src/quant        quern/ base/ quant/ parallel/ program/ checkpoint/
src/layers       quern/ base/ layers/ quant/ parallel/ program/ checkpoint/
src/model        quern/ base/ model/ layers/ quant/ parallel/ program/ checkpoint/
src/engine       quern/ base/ engine/
src/worker       quern.h quern/ base/ worker/ model/ layers/ quant/ parallel/ program/ checkpoint/ engine/ kernels/ ipc/ msg/
src/supervisor   quern.h quern/ base/ supervisor/ text/ msg/ ipc/
src/cli          quern.h quern/log.h quern/status.h base/ cli/
src/gateway      quern.h quern/log.h quern/status.h base/ gateway/
src/tools        *
'

# sources_of DIR: its .c and .h files.
sources_of()
{
    find "$sources/$1" -name '*.[ch]' 2>/dev/null | LC_ALL=C sort
}

# forbidden DIR PREFIX...: prints "file: include" for each one outside the prefixes.
forbidden()
{
    folder=$1
    shift
    sources_of "$folder" | while read -r file; do
        sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file" |
            while read -r name; do
                for prefix in "$@"; do
                    case $name in "$prefix"*) continue 2 ;; esac
                done
                echo "${file#"$sources"/} includes \"$name\""
            done
    done
}

tap_plan $(($(printf '%s' "$rows" | grep -c .) + 2))

while read -r folder allowed; do
    [ -n "$folder" ] || continue
    found=
    # The row of src/tools allows everything.
    [ "$allowed" = '*' ] || found=$(set -f; forbidden "$folder" $allowed)
    [ -z "$found" ]
    tap_check $? "$folder looks down only"
    [ -z "$found" ] || tap_note "$found"
done <<ROWS
$rows
ROWS

unknown=$(cd "$sources" && for folder in src/*/; do
    printf '%s' "$rows" | grep -q "^${folder%/} " || echo "${folder%/} has no row in layers.sh"
done)
[ -z "$unknown" ]
tap_check $? "every folder of src has its row"
[ -z "$unknown" ] || tap_note "$unknown"

nccl=$(cd "$sources" && grep -rlE '#[[:space:]]*include[[:space:]]*[<"]nccl\.h' ipc kernels src)
[ "$(printf '%s' "$nccl" | grep -c .)" -le 1 ]
tap_check $? "at most one file includes nccl.h"

tap_done
