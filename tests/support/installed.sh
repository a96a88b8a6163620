#!/bin/sh
# installed.sh SRCDIR - an installation serves who was told of nothing but README.md.
#
# Run by `make installcheck`, which says in BINDIR, LIBDIR and DESTDIR where it
# is, and in CC and LDFLAGS how programs are made. What it runs gets no hint in
# its environment: no QUERN, no QUERN_DATADIR, no LD_LIBRARY_PATH.

sources=$1
. "$sources/tests/support/tap.sh"
unset QUERN QUERN_DATADIR QUERN_TEST_DATA LD_LIBRARY_PATH

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" && cp -R "$sources/examples" "$folder/" && cd "$folder" || exit 1
# README says cc; here that is the compiler of this build, with its sanitizers.
printf '#!/bin/sh\nexec %s "$@" %s\n' "$CC" "$LDFLAGS" >bin/cc
chmod +x bin/cc
PATH=$folder/bin:$PATH
PKG_CONFIG_PATH=$DESTDIR$LIBDIR/pkgconfig
export PKG_CONFIG_PATH
[ -z "$DESTDIR" ] || { PKG_CONFIG_SYSROOT_DIR=$DESTDIR; LD_LIBRARY_PATH=$DESTDIR$LIBDIR; }
[ -z "$DESTDIR" ] || export PKG_CONFIG_SYSROOT_DIR LD_LIBRARY_PATH

# fact NAME COMMAND...: what it said is shown when it failed.
fact()
{
    name=$1
    shift
    "$@" >said 2>&1
    result=$?
    tap_check $result "$name"
    [ $result -eq 0 ] || tap_note "$(cat said)"
}

# The lines of README's section "From C" that a reader pastes.
compile_line()
{
    sed -n '/^## From C/,/^## Tests/p' "$sources/README.md" | sed -n '/^cc /p' >line
    [ -s line ] && sh -e line
}

tells_a_story()
{
    [ "$("$@" 2>/dev/null | wc -w)" -ge 5 ]
}

from_cxx()
{
    cxx=$(command -v "${CXX:-g++}" || command -v clang++) || return 1
    printf '#include <quern.h>\nint main() { return quern_version()[0] == 0; }\n' >a.cc
    # shellcheck disable=SC2046,SC2086 # lists of words
    "$cxx" -o from-cxx a.cc $(pkg-config --cflags --libs quern) $LDFLAGS && ./from-cxx
}

# What quern.h declares is what the library exports, each with a version (which: tests/abi).
versioned()
{
    nm -D --defined-only --with-symbol-versions "$DESTDIR$LIBDIR/libquern.so" |
        awk '$2 != "A" { print $3 }' | sed -n 's/@@QUERN_[0-9][0-9]*$//p' | LC_ALL=C sort >exported
    printf '#include <quern.h>\n' >a.c
    # shellcheck disable=SC2046
    cc -E -P $(pkg-config --cflags quern) a.c | grep -oE '\bquern_[a-z0-9_]+ *\(' |
        tr -d ' (' | LC_ALL=C sort -u >declared
    diff declared exported
}

module()
{
    # shellcheck disable=SC2046
    cc -std=c17 -shared -fPIC examples/02_strategy_plugin.c -o mine.so \
        $(pkg-config --cflags quern)
}

if [ -e "$DESTDIR$LIBDIR/libquern.so" ]; then
    tap_plan 6
    fact "README's compile line works" compile_line
    fact "the program tells a story" tells_a_story ./story
    fact "C++ programs link" from_cxx
    fact "libquern exports what quern.h declares, versioned" versioned
else
    tap_plan 2 # --disable-shared
fi
fact "quern finds its model" tells_a_story "$DESTDIR$BINDIR/quern" run -n 20 "Once upon a time"
fact "a plugin's compile line works" module
tap_done
