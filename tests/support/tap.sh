# tap.sh - the few lines of TAP that shell tests share. Source it, call
# tap_plan N, then tap_check once per fact, then tap_done as the last command.

tap_number=0
tap_failed=0

tap_plan()
{
    echo "1..$1"
}

# tap_check STATUS NAME: reports 0 as ok.
tap_check()
{
    tap_number=$((tap_number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $tap_number - $2"
    else
        echo "not ok $tap_number - $2"
        tap_failed=$((tap_failed + 1))
    fi
}

# tap_note TEXT...: each line as a TAP comment.
tap_note()
{
    printf '%s\n' "$*" | sed 's/^/# /'
}

tap_done()
{
    [ "$tap_failed" -eq 0 ]
}
