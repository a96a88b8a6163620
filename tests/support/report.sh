#!/bin/sh
# report.sh - what .ci/report says of the results that automake's driver writes.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
sources=$(cd "$sources" && pwd)
cd "$folder" || exit 1

# ran FOLDER NAME TAP: a program of that name said so, as make check hears it.
ran()
{
    mkdir -p "$1"
    printf '%s\n' "$3" >said
    AM_TAP_AWK=awk sh "$sources/build-aux/tap-driver.sh" --test-name "$2" \
        --log-file "$1/$2.log" --trs-file "$1/$2.trs" -- \
        sh "$sources/tests/support/run-test.sh" cat said >driver 2>&1
}

# reports STATUS NAME TEXT: of the folders there are.
reports()
{
    said=$("$sources/.ci/report" build*)
    [ $? -eq "$1" ] && [ "$said" = "$3" ]
    tap_check $? "$2"
    [ "$said" = "$3" ] || tap_note "$said"
    rm -rf build*
}

tap_plan 6

ran build test_a '1..2
ok 1 - a
ok 2 - b'
ran build-two test_b '1..1
ok 1 - a'
reports 0 "cases of all folders are counted" '3 passed, 0 failed, 0 skipped'

ran build test_a '1..3
# why this passes
ok 1 - a
# no GPU here
not ok 2 # SKIP on_a_gpu
# on_the_cpu: QUERN_TEST_SEED=77
# this CPU has no AVX-512
# on_the_cpu: QUERN_TEST_SEED=78
not ok 3 # SKIP on_the_cpu'
reports 0 "a test that hardware is missing for is named with its reason" 'skipped:
  build/test_a: on_a_gpu: no GPU here
  build/test_a: on_the_cpu: this CPU has no AVX-512
1 passed, 0 failed, 2 skipped'

ran build test_a '1..2
# no GPU here
ok 1 - a
not ok 2 # SKIP b'
ran build-two test_b '1..0 # SKIP no python3'
reports 1 "another reason, or none, is a failure" 'skipped:
  build-two/test_b: no python3
  build/test_a: b
2 of them for another reason than hardware that is not there
1 passed, 0 failed, 2 skipped'

ran build test_a '1..2
ok 1 - a
not ok 2 - b'
reports 1 "a failed case is a failure" '1 passed, 1 failed, 0 skipped'

ran build test_a '1..3
ok 1 - a'
reports 1 "so are cases that never came" '1 passed, 1 failed, 0 skipped'

mkdir build
reports 1 "so is nothing at all" '0 passed, 0 failed, 0 skipped'
tap_done
