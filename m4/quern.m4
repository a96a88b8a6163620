# quern.m4 - configure's own checks, so that nothing beyond autoconf, automake,
# libtool and pkg-config is needed to bootstrap.

# QUERN_NEED_LIBRARY(VARIABLE, MODULE, DEBIAN-PACKAGE)
# VARIABLE_CFLAGS and VARIABLE_LIBS, or a note for QUERN_REPORT_MISSING.
AC_DEFUN([QUERN_NEED_LIBRARY],
[AC_REQUIRE([PKG_PROG_PKG_CONFIG])dnl
PKG_CHECK_MODULES([$1], [$2], [],
    [AS_VAR_APPEND([quern_missing], ["
  m4_bpatsubst([$2], [ .*]) is missing: apt-get install $3"])
     AS_VAR_APPEND([quern_missing_packages], [" $3"])])])

# One error that names all that is missing, and the one command that helps.
AC_DEFUN([QUERN_REPORT_MISSING],
[AS_IF([test -z "$PKG_CONFIG"],
    [AC_MSG_ERROR([pkg-config is missing: apt-get install pkg-config])])
AS_IF([test -n "$quern_missing"],
    [AC_MSG_ERROR([libraries are missing or too old:$quern_missing
All at once: apt-get install$quern_missing_packages])])])

# QUERN_TEST_LIBRARY(VARIABLE, MODULE, DEBIAN-PACKAGE)
# What only the tests need: without it all else is built, and HAVE_VARIABLE is false.
AC_DEFUN([QUERN_TEST_LIBRARY],
[PKG_CHECK_MODULES([$1], [$2],
    [quern_tests_summary="make check"],
    [quern_tests_summary="none: $3 is missing"])
AM_CONDITIONAL([HAVE_$1], [test "$quern_tests_summary" = "make check"])])

# Where the loader does not look by itself, programs are told where libquern is:
# then the compile line of the README works under any prefix, before ldconfig.
AC_DEFUN([QUERN_RUN_PATH],
[AS_CASE([$prefix:$libdir],
    [*:/usr/lib|*:/usr/lib/*|*:/lib|*:/lib/*], [QUERN_RPATH=],
    [/usr:'${exec_prefix}/lib'*], [QUERN_RPATH=],
    [QUERN_RPATH='-Wl,-rpath,${libdir}'])
AC_SUBST([QUERN_RPATH])])

# QUERN_TRY_CFLAGS(FLAGS, IF-YES, [IF-NO])
AC_DEFUN([QUERN_TRY_CFLAGS],
[AC_MSG_CHECKING([whether $CC accepts $1])
quern_saved_CFLAGS=$CFLAGS
CFLAGS="$1 -Werror"
AC_COMPILE_IFELSE([AC_LANG_PROGRAM([])],
    [AC_MSG_RESULT([yes])
     CFLAGS=$quern_saved_CFLAGS
     $2],
    [AC_MSG_RESULT([no])
     CFLAGS=$quern_saved_CFLAGS
     $3])])

AC_DEFUN([QUERN_CHECK_COMPILER],
[QUERN_TRY_CFLAGS([-std=c17], [],
    [AC_MSG_ERROR([$CC has no C17: use gcc 8 or clang 7 and later])])
AC_SUBST([QUERN_OPT], [-O2])
AC_SUBST([KERNEL_OPT], [-O3])
AC_SUBST([NO_UNDEFINED], [-Wl,-z,defs])])

# Which of the x86-64 kernel libraries this compiler can build. They are built
# whatever this machine's CPU is; the one to run is chosen at run time.
AC_DEFUN([QUERN_CHECK_ISA],
[quern_isa_names=
AS_CASE([$host_cpu], [x86_64|amd64],
    [QUERN_TRY_CFLAGS([-mavx512bf16 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c],
        [quern_isa_names=", AVX2, AVX-512, AVX-512 BF16"],
        [AC_MSG_ERROR([$CC does not know AVX-512 BF16: use gcc 10 or clang 9 and later])])])
AM_CONDITIONAL([X86_64], [test -n "$quern_isa_names"])])

AC_DEFUN([QUERN_OPTION_SANITIZERS],
[AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers=LIST],
        [build with the compiler's sanitizers: address,undefined or thread])],
    [], [enable_sanitizers=no])
AS_CASE([$enable_sanitizers],
    [no], [quern_sanitizers=],
    [yes|address,undefined|undefined,address], [quern_sanitizers=address,undefined],
    [address|undefined|thread], [quern_sanitizers=$enable_sanitizers],
    [AC_MSG_ERROR([--enable-sanitizers=$enable_sanitizers: give address,undefined or thread])])
AS_IF([test -n "$quern_sanitizers"],
    [SANITIZE="-fsanitize=$quern_sanitizers -fno-omit-frame-pointer"
     AS_CASE([$quern_sanitizers], [*undefined*],
        [SANITIZE="$SANITIZE -fno-sanitize-recover=undefined"])
     QUERN_TRY_CFLAGS([$SANITIZE], [],
        [AC_MSG_ERROR([$CC cannot build with $SANITIZE])])
     QUERN_OPT=-O1
     KERNEL_OPT=
     # The sanitizers' own symbols come with the program.
     NO_UNDEFINED=])
AC_SUBST([SANITIZE])])

AC_DEFUN([QUERN_OPTION_WERROR],
[AC_ARG_ENABLE([werror],
    [AS_HELP_STRING([--enable-werror], [treat warnings as errors (CI does)])],
    [], [enable_werror=no])
AS_IF([test "x$enable_werror" = xyes],
    [WERROR=-Werror; quern_werror_summary="are errors"],
    [WERROR=; quern_werror_summary="are shown"])
AC_SUBST([WERROR])])

# The GPU side is a module that is built apart. This version has none, so auto
# and no come to the same, and yes is refused.
AC_DEFUN([QUERN_OPTION_CUDA],
[AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda=auto|yes|no],
        [build the CUDA module (default auto; this version has none)])],
    [], [with_cuda=auto])
AS_CASE([$with_cuda],
    [auto], [quern_cuda_summary="none in this version"],
    [no], [quern_cuda_summary="no"],
    [yes], [AC_MSG_ERROR([the CUDA module is not part of this version: use --with-cuda=auto])],
    [AC_MSG_ERROR([--with-cuda=$with_cuda: give auto, yes or no])])])
