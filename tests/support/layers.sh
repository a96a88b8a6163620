#!/bin/sh
# layers.sh - each layer of the sources includes only what lies below it.
#
# Every #include of ours names its file from include/, the top or src/. A row of
# the table below says, for one folder, which beginnings of such names it may
# use; what is not said is forbidden, and so is a folder without a row. In <> a
# name is ours when there is such a file. Through a macro nobody can tell, and with
# .. in it a name has no beginning: both are forbidden.

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

# sources_of DIR: the files that a compiler reads.
sources_of()
{
    find "$sources/$1" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null |
        LC_ALL=C sort
}

# is_ours NAME: not a system's or a library's header.
is_ours()
{
    [ -e "$sources/include/$1" ] || [ -e "$sources/$1" ] || [ -e "$sources/src/$1" ]
}

# forbidden DIR PREFIX...: prints "file: include" for each one outside the prefixes.
forbidden()
{
    folder=$1
    shift
    sources_of "$folder" | while read -r file; do
        sed -n 's/^[[:space:]]*#[[:space:]]*include\(_next\)\{0,1\}[[:space:]]*//p' "$file" |
            while read -r rest; do
                case $rest in
                \"*) name=${rest#\"} name=${name%%\"*} ;;
                \<*)
                    name=${rest#<} name=${name%%>*}
                    is_ours "$name" || continue
                    ;;
                *) name="" ;;
                esac
                for prefix in "$@"; do
                    case $name in *../*) break ;; "$prefix"*) continue 2 ;; esac
                done
                echo "${file#"$sources"/} includes $rest"
            done
    done
}

tap_plan $(($(printf '%s' "$rows" | grep -c .) + 10))

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

# Plants, in a tree of their own: what this script is for is seen in every form.
plants=$(mktemp -d) || exit 1
trap 'rm -rf "$plants"' EXIT
mkdir -p "$plants/include/quern" "$plants/src/engine" "$plants/src/worker" "$plants/src/base"
: >"$plants/include/quern/log.h" >"$plants/src/base/list.h" >"$plants/src/worker/worker.h"

# planted STATUS NAME FILE LINE: a file of src/engine with that line is forbidden (1), or not (0).
planted()
{
    printf '/* a plant */\n%s\n' "$4" >"$plants/src/engine/$3"
    found=$(sources=$plants; forbidden src/engine quern/ base/ engine/)
    rm "$plants/src/engine/$3"
    [ "$1" -eq "$(printf '%s' "$found" | grep -c .)" ]
    tap_check $? "$2"
    [ "$1" -ne 0 ] || [ -z "$found" ] || tap_note "$found"
}

planted 1 "an include of what lies above is seen" a.c '#include "worker/worker.h"'
planted 1 "in angle brackets, too" a.h '  #  include<worker/worker.h> // above'
planted 1 "through a macro, too" a.c '#include WORKER_HEADER'
planted 1 "by way of another folder, too" a.c '#include "base/../worker/worker.h"'
planted 1 "in a .cu file, too" a.cu '#include <worker/worker.h>'
planted 1 "in a .cuh file, too" a.cuh '#include "worker/worker.h"'
planted 0 "what lies below may be included" a.cu '#include "base/list.h"
#include <quern/log.h>'
planted 0 "so may headers of others" a.c '#include <linux/worker.h>
#include <jansson.h> /* not ours */'

tap_done
