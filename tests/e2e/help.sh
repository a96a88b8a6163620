#!/bin/sh
# help.sh - what commands say of themselves: help, man page, and wrong usage.
#
# `quern COMMAND --help` is made of the table that parses the options. The man
# page is written by hand, so it is held to that: in its OPTIONS, each entry
# begins with the option; those of "Model and machine" are of run, serve, logits,
# plan and bench throughput, those of "Sampling" of run, and others end with a line that names
# their commands in parentheses.

sources=${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}
. "$sources/tests/support/tap.sh"

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

"$QUERN" --help >help || exit 1
commands=$(sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p' help | grep -vx bench)
benches=$("$QUERN" bench --help | sed -n 's/^  \([a-z][a-z]*\)  .*/bench \1/p' | tr ' ' :)

# options_of COMMAND: "COMMAND --option" for each line of its help that begins with one.
options_of()
{
    # shellcheck disable=SC2046 # bench:ipc is two words
    "$QUERN" $(echo "$1" | tr : ' ') --help |
        sed -n 's/^  \(-[a-z], \)\{0,1\}\(--[a-z0-9-]*\).*/\2/p' | grep -vx -e --help |
        sed "s/^/$1 /"
}

manual_options()
{
    awk -v runtime='run serve embed logits plan bench:throughput' '
        function tell(names,   list, n, i) {
            n = split(names, list, " ")
            for (i = 1; i <= n; i++)
                print list[i], option
        }
        /^\.S[HS] / { section = $0; option = ""; next }
        /^\.TP/ { tag = 1; option = ""; next }
        tag {
            tag = 0
            gsub(/\\-/, "-")
            if (!match($0, /--[a-z0-9-]+/))
                next
            option = substr($0, RSTART, RLENGTH)
            if (section ~ /Model and machine/)
                tell(runtime)
            if (section ~ /Sampling/)
                tell("run")
            next
        }
        option != "" && /^\.RB \( / {
            gsub(/bench /, "bench:")
            sub(/^\.RB /, "")
            gsub(/[",().]/, " ")
            tell($0)
        }' "$sources/man/quern.1"
}

tap_plan 6

for command in $commands $benches; do options_of "$command"; done | LC_ALL=C sort >in-help
manual_options | LC_ALL=C sort >in-manual
said=$(diff in-help in-manual)
tap_check $? "every command's options are in the man page, and no others"
[ -z "$said" ] || tap_note "< in help alone, > in man/quern.1 alone:" "$said"

missing=$(for command in $commands bench; do
    grep -q "^\.B quern $command" "$sources/man/quern.1" || echo "$command"
done)
[ -z "$missing" ]
tap_check $? "every command is in the man page's synopsis"
[ -z "$missing" ] || tap_note "missing: $missing"

wide=$({
    cat help
    for command in $commands bench $benches; do
        # shellcheck disable=SC2046
        "$QUERN" $(echo "$command" | tr : ' ') --help || echo "$command --help failed"
    done
} | awk 'length > 80 || / --help failed$/')
[ -z "$wide" ]
tap_check $? "help fits 80 columns"
[ -z "$wide" ] || tap_note "$wide"

# Usage errors: status 2, one line, nothing on standard output.
refused()
{
    # shellcheck disable=SC2086
    "$QUERN" $1 >out 2>err </dev/null
    [ $? -eq 2 ] && [ ! -s out ] && [ "$(wc -l <err)" -eq 1 ] && grep -qF -e "$2" err ||
        tap_note "quern $1: $(cat out err)"
}

said=$(for command in $commands $benches; do
    refused "$(echo "$command" | tr : ' ') --hlep" "unknown option --hlep: did you mean --help?"
done)
[ -z "$said" ]
tap_check $? "every command refuses an unknown option with status 2 and one line"
[ -z "$said" ] || echo "$said"

said=$(
    refused "rum" 'unknown command "rum": did you mean run?'
    refused "frobnicate" 'unknown command "frobnicate": see quern --help'
    refused "bench" "there is: "
    refused "bench ipk" "did you mean ipc?"
    refused "run --temprature 1 x" "did you mean --temperature?"
    refused "run --greedy=1 x" "--greedy takes no value"
    refused "run" "one PROMPT"
    refused "synth" "--like"
    refused "quantize" "--quant"
    refused "logits" "--ids"
    refused "doctor now" "no argument"
    refused "tokenize x" "one word too many"
    refused "serve" "--socket"
)
[ -z "$said" ]
tap_check $? "wrong usage is status 2 and one line that helps"
[ -z "$said" ] || echo "$said"

"$QUERN" >out 2>&1
[ $? -eq 2 ] && grep -q '^usage: quern COMMAND' out
tap_check $? "quern alone prints its usage with status 2"
tap_done
