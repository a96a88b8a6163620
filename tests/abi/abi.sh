#!/bin/sh
# abi.sh - a program of the first version runs with this library, and nothing has left it.
#
# symbols.N: what came with version N of the symbols.
#
# QUERN_LIBS is where the library lies.

here=$(dirname "$0")
. "$QUERN_TEST_DATA/support/tap.sh"

said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT

tap_plan 3
LD_LIBRARY_PATH=$QUERN_LIBS LD_BIND_NOW=1 timeout 120 "$here/first.x86-64" >"$said" 2>&1
[ $? -eq 0 ] && [ "$(tail -n 1 "$said")" = "the end" ]
tap_check $? "a_program_of_the_first_version_runs_to_its_end"
! grep -qv -e '^holds - ' -e '^the end$' "$said"
tap_check $? "all_that_it_relies_on_holds"
tap_note "$(cat "$said")"
nm -D --defined-only --with-symbol-versions "$QUERN_LIBS/libquern.so.1" |
    awk '$2 != "A" { print $3 }' >"$said"
gone=$(cat "$here"/symbols.* | grep -vxFf "$said")
[ -z "$gone" ] && [ -s "$said" ]
tap_check $? "each_symbol_there_ever_was_is_there_with_its_version"
tap_note "$gone"
tap_done
