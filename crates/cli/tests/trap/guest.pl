# A guest of host.py by system calls alone.
my ($queue, $set, $segment) = (syscall(68, 7, 0), syscall(64, 7, 1, 0), syscall(29, 7, 4096, 0));
die "no host: $!" if grep { $_ < 0 } $queue, $set, $segment;
my $message = "\0" x 16;
syscall(70, $queue, $message, 4, 1, 0) == 4 or die "msgrcv: $!";
my $number = (unpack "q i", $message)[1];
my $at = syscall(30, $segment, 0, 0);
# Its own memory is copied to by a call too: process_vm_writev.
my $byte = chr $number;
my ($from, $to) = (pack("P Q", $byte, 1), pack("Q Q", $at + $number, 1));
syscall(311, $$ + 0, $from, 1, $to, 1, 0) == 1 or die "writing to the segment: $!";
syscall(67, $at) == 0 or die "shmdt: $!";
my $up = pack "S s s", 0, 1, 0;
syscall(65, $set, $up, 1) == 0 or die "semop: $!";
$message = pack "q i", 2, $number;
syscall(69, $queue, $message, 4, 0) == 0 or die "msgsnd: $!";
