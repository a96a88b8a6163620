#!/bin/sh
# run-test.sh COMMAND...: runs a cmocka program for automake's TAP driver.
#
# cmocka 1.1 says "not ok 1 # SKIP name" of a test that called skip(); to TAP
# that is a failure. Here it becomes "ok 1 # SKIP name". The exit status stays.

exec 3>&1
status=$({
    {
        "$@"
        echo $? >&4
    } | sed 's/^not ok \([0-9]* # SKIP\)/ok \1/' >&3
} 4>&1)
exit "$status"
