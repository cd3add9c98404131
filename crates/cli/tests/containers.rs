//! Containers made by hand, which share a namespace that is served outside over a socket mounted into each.

use std::process::{Command, Output, Stdio};
use std::{env, fs, process};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// Makes a queue, a set and a segment, or finds and uses them; prints what it sees.
const PYTHON: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True); libc.shmat.restype = ctypes.c_void_p
q, s, m = libc.msgget(7, 0o1666), libc.semget(7, 1, 0o1666), libc.shmget(7, 4096, 0o1666)
at = libc.shmat(m, None, 0)
def owner():
    room = ctypes.create_string_buffer(120); libc.msgctl(q, 2, room)
    return struct.unpack_from('i4I', room.raw)[1:] + struct.unpack_from('ii', room.raw, 96)
if sys.argv[1] == 'asks':
    ctypes.memmove(at, b'pixels', 6); print(owner()[:4], flush=True)
    libc.msgsnd(q, struct.pack('q', 1) + b'draw', 4, 0)
    libc.semop(s, struct.pack('hhh', 0, -1, 0), 1)
    print(ctypes.string_at(at, 6).decode(), owner()[4] == os.getpid(), owner()[5], flush=True)
else:
    room = ctypes.create_string_buffer(12); print(libc.msgrcv(q, room, 4, 0, 0), room.raw[8:], owner()[:4], owner()[4])
    print(ctypes.string_at(at, 6).decode()); ctypes.memmove(at, b'PIXELS', 6)
    libc.semop(s, struct.pack('hhh', 0, 1, 0), 1)
";

/// The whole: a served namespace, and two containers with a root of their own, of which each sees the other only by the namespace.
const SCRIPT: &str = r#"
set -eu
XDG_RUNTIME_DIR=$dir; export XDG_RUNTIME_DIR
"$ipcspace" serve shop 2>/dev/null & serving=$!
until "$ipcspace" exec shop -- true 2>/dev/null; do sleep 0.05; done
"$ipcspace" exec shop -- sh -c 'echo "$LD_PRELOAD"; dirname "$IPCSPACE_SOCKET"' >"$dir/where"
{ read -r preload; read -r place; } <"$dir/where"
container() {
	mkdir -p "$dir/$1"
	unshare -Urmpf sh -euc '
		root=$1 place=$2 script=$3 preload=$4 role=$5
		mount --rbind / "$root"; mount -t tmpfs none "$root/mnt"; mkdir "$root/mnt/ipc"; mount --bind "$place" "$root/mnt/ipc"
		IPCSPACE_SOCKET=/mnt/ipc/socket LD_PRELOAD=$preload exec chroot "$root" python3 "$script" "$role"
	' sh "$dir/$1" "$place" "$dir/use.py" "$preload" "$2"
}
container a asks >"$dir/said" & asking=$!
container b answers
wait $asking; cat "$dir/said"
kill $serving; wait $serving
"#;

fn possible() -> bool {
    let tries = |command: &str| {
        let tried = Command::new("sh").args(["-c", command]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let possible = tries("unshare -Urmpf mount -t tmpfs none /mnt") && tries("python3 -c 'import ctypes'");
    if !possible {
        eprintln!("not tested: this needs python3, and unshare -Urmp");
    }
    possible
}

fn share() -> Output {
    let dir = env::temp_dir().join(format!("ipcspace-containers-{}", process::id()));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("use.py"), PYTHON).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).env("dir", &dir).env("ipcspace", IPCSPACE);
    let output = command.output().unwrap();
    fs::remove_dir_all(dir).unwrap();
    output
}

#[test]
fn two_containers_share_a_segment_a_queue_and_a_set() {
    if !possible() {
        return;
    }
    let output = share();
    // Each is root in its own user namespace, and a process of the other has no number in its PID namespace.
    let expected = "4 b'draw' (0, 0, 0, 0) 0\npixels\n(0, 0, 0, 0)\nPIXELS True 0\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    assert!(output.status.success(), "{output:?}");
}
