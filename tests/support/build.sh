#!/bin/sh
# build.sh - a build as a stranger makes it: in a folder far from the sources,
# without cmocka, used before it is installed, then installed.
#
# It takes a minute of two cores, so `make check-build` runs it and not `make
# check`. Nothing of the test environment is handed on.

sources=$(CDPATH= cd -- "${QUERN_TEST_SOURCES:-$(dirname "$0")/../..}" && pwd)
. "$sources/tests/support/tap.sh"
unset QUERN QUERN_DATADIR QUERN_TEST_DATA QUERN_EXAMPLES MAKEFLAGS MAKELEVEL MFLAGS TESTS DESTDIR

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/build" && cd "$folder/build" || exit 1
touch "$folder/stamp"

# pkg-config on a machine that has no cmocka.
cat >"$folder/pkg-config" <<WRAPPER
#!/bin/sh
case "\$*" in *cmocka*) exit 1 ;; esac
exec $(command -v pkg-config) "\$@"
WRAPPER
chmod +x "$folder/pkg-config"

# fact NAME COMMAND...: what it said is shown when it failed.
fact()
{
    name=$1
    shift
    "$@" >"$folder/said" 2>&1 </dev/null
    result=$?
    tap_check $result "$name"
    [ $result -eq 0 ] || tap_note "$(tail -n 30 "$folder/said")"
}

configure()
{
    "$sources/configure" -q --enable-werror --prefix="$folder/installed" CC="${CC:-cc}" \
        PKG_CONFIG="$folder/pkg-config"
}

tests_want_cmocka()
{
    ! make -s check && grep -qF 'apt-get install libcmocka-dev' "$folder/said"
}

tells_a_story()
{
    (cd / && [ "$("$@" 2>/dev/null | wc -w)" -ge 5 ])
}

untouched()
{
    ! find "$sources" -newer "$folder/stamp" -type f ! -path "$sources/build*" \
        ! -path "$sources/.git/*" | grep .
}

tap_plan 8
fact "configure does without cmocka" configure
fact "all is built without cmocka" make -s -j2
fact "make check says what to install" tests_want_cmocka
fact "quern runs where it was built" tells_a_story "$folder/build/quern" run -n 20 "Once upon a time"
make -s examples/01_complete >/dev/null 2>&1
fact "so does a program linked with libquern there" tells_a_story "$folder/build/examples/01_complete"
fact "make install" make -s install
fact "what was installed serves README's readers" make -s installcheck
fact "nothing was written among the sources" untouched
tap_done
