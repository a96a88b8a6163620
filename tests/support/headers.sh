#!/bin/sh
# headers.sh - each installed header is complete by itself, as C and as C++.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"

cc=${CC:-cc}
cxx=$(command -v "${CXX:-g++}" || command -v clang++)
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT

# compiles COMPILER STANDARD SUFFIX HEADER: nothing but the header, included twice.
compiles()
{
    printf '#include <%s>\n#include <%s>\nextern int quern_anything;\n' "$4" "$4" >"$folder/a.$3"
    # shellcheck disable=SC2086 # CC may have options
    said=$($1 "-std=$2" -Wall -Wextra -pedantic-errors -Werror -I"$sources/include" \
        -fsyntax-only "$folder/a.$3" 2>&1)
    tap_check $? "$4 is complete as $2"
    [ -z "$said" ] || tap_note "$said"
}

tap_plan 6
for header in quern.h quern/plugin.h; do
    compiles "$cc" c99 c "$header"
    compiles "$cc" c17 c "$header"
    if [ -n "$cxx" ]; then
        compiles "$cxx" c++11 cc "$header"
    else
        tap_number=$((tap_number + 1))
        echo "ok $tap_number # SKIP $header as c++11: there is no C++ compiler (apt-get install g++)"
    fi
done
tap_done
