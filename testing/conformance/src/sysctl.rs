//! The sysctls as files below /proc/sys/kernel, and what a change of them does at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
};

use crate::{
    Door,
    call::{Answer, nattch, op, segment, shmat, shmdt},
    call::{msg_info, msg_remove, msg_set_qbytes, msg_stat, msgget, msgsnd, queue, semget, semop, set_of},
    case::cases,
    check::{Outcome, ok, same},
    errno::{E2BIG, EACCES, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM, ERANGE, Errno},
    simulated::simulation,
    task::{Task, Thread, become_root, become_user, let_others_run},
};

cases! { "sysctl":
    defaults,
    numbers,
    what_is_no_number,
    ranges,
    unsigned_long,
    lists,
    sem_keeps_what_is_before_an_error,
    only_the_beginning_counts.system("a file that stays open"),
    only_a_page_is_looked_at,
    four_mib_are_refused_unseen.differs(
        &[Door::Trap, Door::Trap32],
        "a text that FUSE hands on in parts is looked at before its size is known"
    ),
    rights_at_open_and_at_write.root().system("a file that stays open"),
    changes_count_at_once,
    forcing_destroys_orphans,
    forcing_spares_what_was_detached_before,
    forced_goes_with_the_thread_that_made_it,
    next_id,
    next_id_outlives_what_fails_before,
    next_id_is_used_up_where_nothing_is_free,
    next_id_needs_a_capability.root(),
}

fn path(name: &str) -> String {
    format!("/proc/sys/kernel/{name}")
}

fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(0))
}

fn value(name: &str) -> String {
    if let Some(simulation) = simulation() {
        let read = simulation.machine(|machine| machine.read_file(simulation.tid(), &path(name)));
        return read.unwrap_or_default().trim_end().to_owned();
    }
    fs::read_to_string(path(name)).unwrap_or_default().trim_end().to_owned()
}

/// How many bytes one write takes.
fn write_at(name: &str, text: &[u8], offset: u64) -> Answer<usize> {
    if let Some(simulation) = simulation() {
        let name = format!("kernel.{name}");
        let written =
            simulation.machine(|machine| machine.write_sysctl_at(simulation.tid(), &name, text, offset));
        return written.map_err(|error| Errno(error.raw()));
    }
    let file = OpenOptions::new().write(true).open(path(name)).map_err(|error| errno(&error))?;
    file.write_at(text, offset).map_err(|error| errno(&error))
}

fn write(name: &str, text: &str) -> Answer<usize> {
    write_at(name, text.as_bytes(), 0)
}

fn defaults() -> Outcome {
    for (name, default) in [
        ("msgmax", "8192"),
        ("msgmnb", "16384"),
        ("msgmni", "32000"),
        ("auto_msgmni", "0"),
        ("sem", "32000\t1024000000\t500\t32000"),
        ("shmmax", "18446744073692774399"),
        ("shmall", "18446744073692774399"),
        ("shmmni", "4096"),
        ("shm_rmid_forced", "0"),
        ("msg_next_id", "-1"),
        ("sem_next_id", "-1"),
        ("shm_next_id", "-1"),
    ] {
        same!((name, value(name)), (name, default.to_owned()));
    }
    Ok(())
}

fn numbers() -> Outcome {
    for (text, number) in [
        ("7", "7"),
        ("8\n", "8"),
        (" \t\n\u{b}\u{c}\r9 \t\n", "9"),
        ("-0", "0"),
        ("0x10", "16"),
        ("0X1f", "31"),
        ("010", "8"),
        ("00000000000000000005", "5"),
        ("2147483647", "2147483647"),
    ] {
        same!((text, write("msgmax", text)), (text, Ok(text.len())));
        same!((text, value("msgmax")), (text, number.to_owned()));
    }
    Ok(())
}

fn what_is_no_number() -> Outcome {
    for text in [
        "x",
        "+1",
        "-",
        "- 1",
        "--1",
        "1x",
        "1\0",
        "1\r\n",
        "1\u{b}",
        "1,2",
        "1;",
        "08",
        "0x",
        "0xg",
        " ",
        "\n",
        "\0",
        "000000000000000000005",
        "-00000000000000000000",
        "2147483648",
        "4294967297",
        "18446744073709551616",
    ] {
        same!((text, write("msgmax", text)), (text, Err(EINVAL)));
    }
    same!(write("msgmax", ""), Ok(0));
    same!(value("msgmax"), "8192");
    Ok(())
}

fn ranges() -> Outcome {
    for (name, most) in [("msgmax", i32::MAX), ("msgmnb", i32::MAX), ("msgmni", 32768), ("shmmni", 32768)] {
        let most = most.to_string();
        same!((name, write(name, &most)), (name, Ok(most.len())));
        same!((name, value(name)), (name, most));
        same!((name, write(name, "0")), (name, Ok(1)));
        same!((name, write(name, "-1")), (name, Err(EINVAL)));
    }
    for name in ["msgmni", "shmmni"] {
        same!((name, write(name, "32769")), (name, Err(EINVAL)));
    }
    for name in ["auto_msgmni", "shm_rmid_forced"] {
        same!((name, write(name, "1")), (name, Ok(1)));
        same!((name, write(name, "2")), (name, Err(EINVAL)));
        same!((name, write(name, "-1")), (name, Err(EINVAL)));
    }
    same!(value("auto_msgmni"), "0");
    same!(value("shm_rmid_forced"), "1");
    Ok(())
}

fn unsigned_long() -> Outcome {
    for name in ["shmmax", "shmall"] {
        for text in ["18446744073709551615", "0xffffffffffffffff"] {
            same!(write(name, text), Ok(text.len()));
            same!(value(name), "18446744073709551615");
        }
        for text in ["-1", "-0", "-1 5", "18446744073709551616", "x", "000000000000000000005"] {
            same!((text, write(name, text)), (text, Err(EINVAL)));
        }
        same!(write(name, "5 -1"), Ok(2));
        same!(value(name), "5");
    }
    Ok(())
}

/// A short list changes its beginning; a surplus is not taken.
fn lists() -> Outcome {
    same!(write("sem", "1"), Ok(1));
    same!(value("sem"), "1\t1024000000\t500\t32000");
    same!(write("sem", " 2\t3\n"), Ok(5));
    same!(value("sem"), "2\t3\t500\t32000");
    same!(write("sem", "1 2 3 4 5"), Ok(8));
    same!(value("sem"), "1\t2\t3\t4");
    same!(write("sem", "5 6 7 8 x"), Ok(8));
    same!(write("sem", "-1 -2 -2147483648"), Ok(17));
    same!(value("sem"), "-1\t-2\t-2147483648\t8");
    same!(write("msgmax", "5 6"), Ok(2));
    same!(write("msgmax", "7 \u{b} x"), Ok(4));
    same!(value("msgmax"), "7");
    Ok(())
}

fn sem_keeps_what_is_before_an_error() -> Outcome {
    same!(write("sem", "1 2 3 32769"), Err(ERANGE));
    same!(value("sem"), "1\t2\t3\t32000");
    same!(write("sem", "4 5 6 -1"), Err(ERANGE));
    same!(value("sem"), "4\t5\t6\t32000");
    same!(write("sem", "7 8 x"), Err(EINVAL));
    same!(write("sem", "9 2147483648"), Err(EINVAL));
    same!(value("sem"), "9\t8\t6\t32000");
    Ok(())
}

fn only_the_beginning_counts() -> Outcome {
    same!(write_at("msgmax", b"100", 1), Ok(3));
    same!(write_at("msgmax", b"x", 5), Ok(1));
    same!(value("msgmax"), "8192");
    let mut file = ok!(File::create(path("msgmax")));
    same!(file.write(b"100\n").ok(), Some(4));
    same!(file.write(b"200\n").ok(), Some(4));
    same!(value("msgmax"), "100");
    Ok(())
}

fn only_a_page_is_looked_at() -> Outcome {
    let mut text = vec![b' '; 5000];
    same!(write_at("msgmax", &text, 0), Err(EINVAL));
    text[4094] = b'7';
    text[4095] = b'8';
    same!(write_at("msgmax", &text[..4096], 0), Ok(4096));
    same!(value("msgmax"), "7");
    text[4094] = b' ';
    same!(write_at("msgmax", &text, 0), Err(EINVAL));
    text[0] = b'9';
    same!(write_at("msgmax", &text, 0), Ok(5000));
    same!(value("msgmax"), "9");
    Ok(())
}

fn four_mib_are_refused_unseen() -> Outcome {
    same!(write_at("msgmax", &vec![b' '; 4 << 20], 0), Err(ENOMEM));
    same!(write_at("msgmax", &vec![b' '; (4 << 20) - 1], 0), Err(EINVAL));
    same!(value("msgmax"), "8192");
    Ok(())
}

fn rights_at_open_and_at_write() -> Outcome {
    let file = ok!(OpenOptions::new().write(true).open(path("msgmax")));
    become_user(1000, 1000, &[]);
    same!(write("msgmax", "1"), Err(EACCES));
    same!(file.write_at(b"1", 0).map_err(|error| errno(&error)), Err(EPERM));
    same!(value("msgmax"), "8192");
    become_root();
    same!(file.write_at(b"1", 0).ok(), Some(1));
    same!(value("msgmax"), "1");
    Ok(())
}

fn changes_count_at_once() -> Outcome {
    let id = ok!(queue());
    ok!(write("msgmax", "3"));
    same!(msgsnd(id, 1, b"four", 0), Err(EINVAL));
    ok!(write("msgmnb", "20"));
    same!(ok!(msg_stat(id)).msg_qbytes, 16384);
    same!(ok!(msg_stat(ok!(queue()))).msg_qbytes, 20);
    same!(ok!(msg_info(libc::IPC_INFO)).1.msgmnb, 20);
    same!(msg_set_qbytes(id, 20), Ok(0));
    ok!(write("msgmni", "2"));
    same!(queue(), Err(ENOSPC));
    let set = ok!(set_of(&[0, 0]));
    ok!(write("sem", "2 3 1 1"));
    same!(semget(0, 3, 0o600), Err(EINVAL));
    same!(semget(0, 2, 0o600), Err(ENOSPC));
    same!(semget(0, 1, 0o600), Err(ENOSPC));
    same!(semop(set, &[op(0, 1, 0), op(1, 1, 0)]), Err(E2BIG));
    Ok(())
}

/// Any write that succeeds and leaves it at 1.
fn forcing_destroys_orphans() -> Outcome {
    let own = ok!(segment(1));
    let child = Task::start(|| [(); 3].map(|()| segment(1)))?;
    let [first, second, attached] = child.report()?;
    let orphans = [ok!(first), ok!(second)];
    let at = ok!(shmat(ok!(attached), 0, 0));
    let gone = |id| nattch(id) == Err(EINVAL);
    for (text, offset, taken) in [("0", 0, Ok(1)), ("2", 0, Err(EINVAL)), ("1", 1, Ok(1)), ("", 0, Ok(0))] {
        same!((text, write_at("shm_rmid_forced", text.as_bytes(), offset)), (text, taken));
        same!((text, orphans.map(gone)), (text, [false; 2]));
    }
    same!(write("shm_rmid_forced", "1"), Ok(1));
    same!(orphans.map(gone), [true; 2]);
    // Neither one whose creator lives nor one that is attached.
    same!(nattch(own), Ok(0));
    same!(nattch(ok!(attached)), Ok(1));
    ok!(shmdt(at));
    same!(nattch(ok!(attached)), Err(EINVAL));
    Ok(())
}

fn forcing_spares_what_was_detached_before() -> Outcome {
    let id = ok!(segment(1));
    ok!(shmdt(ok!(shmat(id, 0, 0))));
    same!(write("shm_rmid_forced", "1"), Ok(1));
    same!(write("shm_rmid_forced", "1"), Ok(1));
    same!(nattch(id), Ok(0));
    ok!(shmdt(ok!(shmat(id, 0, 0))));
    same!(nattch(id), Err(EINVAL));
    Ok(())
}

fn forced_goes_with_the_thread_that_made_it() -> Outcome {
    same!(write("shm_rmid_forced", "1"), Ok(1));
    let Some(made) = Thread::start(|| segment(1)).join() else { return Ok(()) };
    let id = ok!(made);
    // A thread can be joined a little before it is gone.
    for _ in 0..30 {
        same!(value("shm_rmid_forced"), "1");
        if nattch(id).is_err() {
            break;
        }
        let_others_run();
    }
    same!(nattch(id), Err(EINVAL));
    Ok(())
}

fn next_id() -> Outcome {
    ok!(write("msg_next_id", "65541"));
    same!(queue(), Ok(65541));
    same!(value("msg_next_id"), "-1");
    // The order of the others is not disturbed.
    same!(queue(), Ok(0));
    // The next free index, where that one is taken.
    ok!(write("msg_next_id", "65541"));
    same!(queue(), Ok(65542));
    ok!(write("sem_next_id", "98311"));
    same!(semget(0, 1, 0o600), Ok(98311));
    same!(write("msg_next_id", "-1"), Err(EINVAL));
    same!(write("msg_next_id", "2147483648"), Err(EINVAL));
    Ok(())
}

fn next_id_outlives_what_fails_before() -> Outcome {
    let id = ok!(queue());
    ok!(write("msgmni", "1"));
    ok!(write("msg_next_id", "65541"));
    same!(queue(), Err(ENOSPC));
    same!(msgget(5, 0o600), Err(ENOENT));
    same!(value("msg_next_id"), "65541");
    ok!(msg_remove(id));
    same!(queue(), Ok(65541));
    ok!(write("sem", "5 4"));
    ok!(write("sem_next_id", "65541"));
    same!(semget(0, 6, 0o600), Err(EINVAL));
    same!(semget(0, 0, 0o600), Err(EINVAL));
    same!(semget(0, 5, 0o600), Err(ENOSPC));
    same!(value("sem_next_id"), "65541");
    Ok(())
}

fn next_id_is_used_up_where_nothing_is_free() -> Outcome {
    let last = (3 << 15) + 32767;
    ok!(write("msg_next_id", &last.to_string()));
    same!(queue(), Ok(last));
    ok!(write("msg_next_id", &last.to_string()));
    same!(queue(), Err(ENOSPC));
    same!(value("msg_next_id"), "-1");
    same!(queue(), Ok(0));
    Ok(())
}

fn next_id_needs_a_capability() -> Outcome {
    become_user(1000, 1000, &[]);
    same!(write("msg_next_id", "5"), Err(EACCES));
    same!(value("msg_next_id"), "-1");
    Ok(())
}
