#!/bin/sh
# bundle.sh SRCDIR OUT INSTALL PROGRAM... -- SCRIPT...
#
# Makes OUT, a folder to carry to a machine that has neither a compiler nor the
# libraries: programs (put in place by the command INSTALL, so that libtool can
# swap its wrappers for the programs themselves), the shared libraries they
# need except the C library's own, the model, the tests' data, and run-tests.
#
#   OUT/bin/quern       sets LD_LIBRARY_PATH and starts libexec/quern
#   OUT/libexec/quern   the program, so that what it starts again is itself
#   OUT/lib             the libraries
#   OUT/share           the built-in model, where libexec/quern finds it
#   OUT/tests           data and scripts of the tests; bin/ has their programs
#   OUT/run-tests       runs all tests, ends with "N passed, N failed, N skipped"
#
# With BUNDLE_DATA=no it has neither the model nor the tests' golden data (30 MB)
# and takes them from the working tree that OUT is in, at OUT/../.. there too.
set -eu

srcdir=$1 out=$2 install=$3
shift 3

rm -rf "$out"
mkdir -p "$out/bin" "$out/libexec" "$out/lib" "$out/share" "$out/tests/bin"
out=$(CDPATH= cd -- "$out" && pwd) # libtool installs to absolute names only

programs= scripts=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    programs="$programs $1"
    shift
done
[ $# -eq 0 ] || shift
scripts=$*

# place PROGRAM: prints where in OUT it belongs.
place()
{
    case $1 in
    tests/*) echo "$out/tests/bin/${1#tests/}" ;;
    */*) echo "$out/$1" ;;
    *) echo "$out/libexec/$1" ;;
    esac
}

for program in $programs; do
    target=$(place "$program")
    mkdir -p "$(dirname "$target")"
    # libtool warns of a libquern that is not installed; here it lies in lib/.
    $install "$program" "$target" 2>"$out/errors" || { cat "$out/errors" >&2; exit 1; }
done

rm -f "$out/errors"

if [ -d .libs ]; then
    for library in .libs/libquern.so.*; do
        [ -h "$library" ] && cp -L "$library" "$out/lib/"
    done
fi

# The closure of shared libraries. The C library belongs to the machine.
for program in $programs; do
    LD_LIBRARY_PATH=$PWD/.libs ldd "$(place "$program")"
done | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | LC_ALL=C sort -u | while read -r library; do
    case ${library##*/} in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | ld-linux*) ;;
    libquern.so.*) ;;
    *) cp -L "$library" "$out/lib/" ;;
    esac
done

copied='e2e support'
if [ "${BUNDLE_DATA:-yes}" != no ]; then
    cp -R "$srcdir/share/models" "$out/share/"
    copied="golden $copied"
fi
for data in $copied; do
    [ ! -d "$srcdir/tests/$data" ] || cp -R "$srcdir/tests/$data" "$out/tests/"
done
mkdir -p "$out/docs" && cp "$srcdir/docs/protocol.md" "$out/docs/" # whose examples are run
chmod -R u+w "$out"

cat >"$out/bin/quern" <<'WRAPPER'
#!/bin/sh
# Starts the bundle's quern with the bundle's libraries.
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
[ -d "$here/share/models" ] || ln -s ../../../share/models "$here/share/models"
exec "$here/libexec/quern" "$@"
WRAPPER

# What to run, one a line, as run-tests reads it.
for program in $programs; do
    case $program in tests/*) echo "tests/bin/${program#tests/}" ;; esac
done >"$out/tests/list"
for script in $scripts; do
    echo "$script"
done >>"$out/tests/list"

cat >"$out/run-tests" <<'RUNNER'
#!/bin/sh
# run-tests [PATTERN]: runs the tests whose names contain PATTERN (default all),
# shows the failures, and ends with "N passed, N failed, N skipped".
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
cd "$here" || exit 1
[ -d share/models ] || ln -s ../../../share/models share/models
[ -d tests/golden ] || ln -s ../../../tests/golden tests/golden
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
CMOCKA_MESSAGE_OUTPUT=TAP
QUERN_TEST_DATA=$here/tests
QUERN_DATADIR=$here/share
QUERN=$here/libexec/quern
QUERN_EXAMPLES=$here/examples
export LD_LIBRARY_PATH CMOCKA_MESSAGE_OUTPUT QUERN_TEST_DATA QUERN_DATADIR QUERN QUERN_EXAMPLES

limit=
command -v timeout >/dev/null 2>&1 && limit='timeout -k 5 300'
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

while read -r test; do
    case $test in *"${1:-}"*) ;; *) continue ;; esac
    case $test in
    *.sh) $limit sh "$test" </dev/null >"$log" 2>&1 ;;
    *) $limit "./$test" </dev/null >"$log" 2>&1 ;;
    esac
    status=$?
    p=$(grep -E '^ok ' "$log" | grep -cvi '# *skip')
    f=$(grep -E '^not ok ' "$log" | grep -cvi '# *skip')
    s=$(grep -E '^(not )?ok ' "$log" | grep -ci '# *skip')
    planned=$(sed -n 's/^1\.\.\([0-9][0-9]*\).*/\1/p' "$log" | head -n 1)
    if [ $status -eq 77 ]; then
        s=$((s + 1))
    elif [ "$f" -eq 0 ] && { [ $status -ne 0 ] || [ "$((p + s))" -ne "${planned:--1}" ]; }; then
        f=1 # it crashed, hung or stopped early
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" -gt 0 ]; then
        echo "FAIL $test (status $status)"
        sed 's/^/    /' "$log"
    else
        echo "ok   $test ($p passed, $s skipped)"
    fi
done <tests/list

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
RUNNER
chmod +x "$out/bin/quern" "$out/run-tests"
echo "bundle: $(du -sh "$out")"
