#!/bin/sh
# sizes.sh - no source file reaches 500 lines: a longer one is split along a seam.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"

tap_plan 1
long=$(cd "$sources" && find include ipc kernels src tests examples \
    \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -exec awk '
        FNR == 500 { print FILENAME " has 500 lines or more" }' {} +)
[ -z "$long" ]
tap_check $? "source files are under 500 lines"
[ -z "$long" ] || tap_note "$long"
tap_done
