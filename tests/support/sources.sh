#!/bin/sh
# sources.sh - what lies in the tree is built and shipped: every source, header
# and test is named in Makefile.am, and nothing is named that does not exist,
# there or in docs/changing.md.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"
cd "$sources" || exit 1

named=$(tr -s ' \t\\' '\n\n\n' <Makefile.am | LC_ALL=C sort -u)

is_named()
{
    printf '%s\n' "$named" | grep -qxF "$1"
}

tap_plan 4

missing=$(find include ipc kernels src tests \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
    ! -name 'test_*.c' ! -name 'stress_*.c' ! -name 'bench_*.c' |
    LC_ALL=C sort | while read -r file; do
        is_named "$file" || echo "$file is not in Makefile.am"
    done)
[ -z "$missing" ]
tap_check $? "every source and header is in Makefile.am"
[ -z "$missing" ] || tap_note "$missing"

missing=$(find tests examples \( -name 'test_*.c' -o -name 'stress_*.c' -o -name 'bench_*.c' -o -path 'examples/*.c' \
    -o -path 'tests/e2e/*.sh' -o -path 'tests/stress/*.sh' \) | LC_ALL=C sort |
    while read -r file; do
        is_named "${file%.c}" || is_named "$file" || echo "$file is not in Makefile.am"
    done)
[ -z "$missing" ]
tap_check $? "every test and example is in Makefile.am"
[ -z "$missing" ] || tap_note "$missing"

missing=$(printf '%s\n' "$named" |
    grep -E '^(include|ipc|kernels|src|tests|examples|share)/.*\.[a-z0-9]+$' |
    grep -v -e '\.so$' -e '\.inc$' | # made
     while read -r file; do
        [ -e "$file" ] || echo "$file is in Makefile.am and not in the tree"
    done)
[ -z "$missing" ]
tap_check $? "every file in Makefile.am is in the tree"
[ -z "$missing" ] || tap_note "$missing"

missing=$(grep -oE '`(tests|src|kernels|ipc|include)/[^` *]*`' docs/changing.md | tr -d '`' |
    while read -r file; do
        [ -e "$file" ] || [ -e "$file.c" ] || echo "$file is in docs/changing.md and not in the tree"
    done)
[ -z "$missing" ]
tap_check $? "every place that docs/changing.md names is in the tree"
[ -z "$missing" ] || tap_note "$missing"
tap_done
