#!/bin/sh
# What `cargo install --path crates/cli` gives is one executable that works wherever it is moved, under any name, and for every user who can execute it.
# Builds and installs into a temporary directory. Needs util-linux; the part for another user needs root.
set -eu
cd "$(dirname "$0")/../.."
place=$(mktemp -d "${TMPDIR:-/tmp}/ipcspace-installed.XXXXXX")
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"

"${CARGO:-cargo}" install --quiet --locked --path crates/cli --root "$place/root"
test "$(ls "$place/root/bin")" = ipcspace
mkdir -m 755 "$place/elsewhere"
mv "$place/root/bin/ipcspace" "$place/elsewhere/moved"
rm -r "$place/root"

expected='Message queue id: 0
0 rw-r--r--'
try() {
	said=$(cd / && env -i PATH="$PATH" "$@" "$place/elsewhere/moved" run -- sh -c 'ipcmk -Q && "$0" ls -q -r --noheadings -o ID,PERMS' "$place/elsewhere/moved")
	test "$said" = "$expected" || { echo "installed.sh: ${*:-as this user}: $said" >&2; exit 1; }
	echo "${*:-this user}: ok"
}
try
if [ "$(id -u)" = 0 ]; then
	try setpriv --reuid=65534 --regid=65534 --clear-groups
else
	echo "another user: not tried, only root can"
fi
