# Programs that are built with another libc, musl, do what those of glibc do, and share a namespace with them.
set -eu
glibc=$FETCHED/bin musl=$FETCHED/bin/musl
"$glibc/exchange" "$musl/exchange"
"$musl/exchange" "$glibc/exchange"
"$musl/exchange" "$musl/exchange"
"$musl/undo" $((${UNDO_COUNT:-1000} / 4))
"$musl/threads" $((${THREADS_COUNT:-1000000} / 4))
"$musl/together" 150
"$musl/vfork"
"$musl/cancel" musl
"$musl/limits" plain
"$musl/limits" lock-first
