#!/bin/sh
# example.sh - the examples of the tree run as a reader would run them.

. "$QUERN_TEST_DATA/support/tap.sh"

tap_plan 2
story=$("$QUERN_EXAMPLES/01_complete" 2>/dev/null)
tap_check $? "01_complete_ends_in_good_order"
[ "$(printf '%s' "$story" | wc -w)" -ge 5 ]
tap_check $? "01_complete_tells_a_story"
tap_note "$story"
tap_done
