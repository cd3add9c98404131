# fakeroot-sysv: its library in each program talks to faked over two message queues and a semaphore set.
# The owners and devices made up before a tar have to be the same after it.
set -eu
# Where one id alone is mapped, chown says EINVAL, which fakeroot hands on (it forgives EPERM only).
grep -q ' 1$' /proc/self/uid_map && { echo "a user namespace of one id, which fakeroot's chown cannot bear"; exit 77; }
fakeroot-sysv sh -ec '
	mkdir tree
	echo text >tree/file
	ln tree/file tree/link
	mknod tree/device c 1 3
	chown 1234:5678 tree/file
	chown 0:42 tree/device
	chmod 4711 tree/file
	tar cf tree.tar tree
	mv tree before
	tar xpf tree.tar --numeric-owner
	for directory in before tree; do
		(cd $directory && stat -c "%n %F %a %u:%g %h %t:%T" file link device) >$directory.owners
	done
	cat tree.owners
	cmp before.owners tree.owners
'
grep -q '^file regular file 4711 1234:5678 2 ' tree.owners
grep -q '^device character special file [0-9]* 0:42 1 1:3' tree.owners
