#!/bin/sh
# example.sh - the examples of the tree run as a reader would run them.

. "$QUERN_TEST_DATA/support/tap.sh"

said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT

tap_plan 6
story=$("$QUERN_EXAMPLES/01_complete" 2>/dev/null)
tap_check $? "01_complete_ends_in_good_order"
[ "$(printf '%s' "$story" | wc -w)" -ge 5 ]
tap_check $? "01_complete_tells_a_story"
tap_note "$story"
story=$(QUERN_LOOP=none timeout 20 "$QUERN_EXAMPLES/01_complete" 2>"$said")
[ $? -eq 1 ] && grep -q '"none"' "$said"
tap_check $? "01_complete_says_what_is_wrong"
tap_note "$(cat "$said")"
story=$(timeout 60 "$QUERN_EXAMPLES/header_example" 2>/dev/null)
tap_check $? "the_header_s_example_is_not_ended_by_signals"
[ "$(printf '%s' "$story" | wc -w)" -ge 5 ]
tap_check $? "the_header_s_example_tells_a_story"
story=$(QUERN_LOOP=none timeout 20 "$QUERN_EXAMPLES/header_example" 2>"$said")
[ $? -eq 0 ] && grep -q '"none"' "$said"
tap_check $? "the_header_s_example_ends_on_an_error_and_says_it"
tap_note "$(cat "$said")"
tap_done
