//! Single capabilities, which decide apart from the user: of another user who has one, and of root who has none.
//! (Those of segments are with shmctl's cases.)

use libc::{IPC_CREAT, SETVAL};

use crate::{
    Door,
    call::{
        NOWAIT, getval, msg_remove, msg_set, msg_set_qbytes, msg_stat, msgget, msgrcv, msgsnd, op,
        sem_remove, sem_set, sem_stat, semctl, semget, semop,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EPERM},
    task::{Capability, become_root, become_user, have_only},
};

const OWNER_IS_ROOT: &str = "the owner of a namespace is root in it, whatever capabilities it has";

cases! { "capabilities":
    ipc_owner_passes_permissions.root(),
    ipc_owner_changes_no_object.root(),
    sys_admin_changes_objects.root(),
    sys_admin_passes_no_permissions.root(),
    sys_admin_does_not_exceed_msgmnb.root(),
    root_without_any_is_as_others.root().differs(&[Door::Preload, Door::Trap, Door::Trap32], OWNER_IS_ROOT),
}

/// Objects of root's, of mode 0: a queue and a set.
fn objects() -> Outcome<[i32; 2]> {
    Ok([ok!(msgget(1, IPC_CREAT)), ok!(semget(1, 1, IPC_CREAT))])
}

fn ipc_owner_passes_permissions() -> Outcome {
    let [queue, set] = objects()?;
    become_user(1000, 1000, &[]);
    same!((msgget(1, 0o666), semget(1, 1, 0o666)), (Err(EACCES), Err(EACCES)));
    have_only(Some(Capability::IpcOwner));
    same!((msgget(1, 0o666), semget(1, 1, 0o666)), (Ok(queue), Ok(set)));
    same!(msgsnd(queue, 1, b"x", NOWAIT), Ok(0));
    same!(ok!(msg_stat(queue)).msg_qnum, 1);
    same!(ok!(msgrcv(queue, 8, 0, NOWAIT)).mtype, 1);
    same!((semctl(set, 0, SETVAL, 3), semop(set, &[op(0, -1, 0)]), getval(set, 0)), (Ok(0), Ok(0), Ok(2)));
    same!(ok!(sem_stat(set)).sem_nsems, 1);
    Ok(())
}

fn ipc_owner_changes_no_object() -> Outcome {
    let [queue, set] = objects()?;
    become_user(1000, 1000, &[]);
    have_only(Some(Capability::IpcOwner));
    let (queue_is, set_is) = (ok!(msg_stat(queue)), ok!(sem_stat(set)));
    same!((msg_set(queue, queue_is), msg_remove(queue)), (Err(EPERM), Err(EPERM)));
    same!((sem_set(set, set_is), sem_remove(set)), (Err(EPERM), Err(EPERM)));
    Ok(())
}

fn sys_admin_changes_objects() -> Outcome {
    let [queue, set] = objects()?;
    let (mut queue_is, mut set_is) = (ok!(msg_stat(queue)), ok!(sem_stat(set)));
    queue_is.msg_perm.mode = 0o666;
    set_is.sem_perm.mode = 0o666;
    become_user(1000, 1000, &[]);
    have_only(Some(Capability::SysAdmin));
    same!((msg_set(queue, queue_is), sem_set(set, set_is)), (Ok(0), Ok(0)));
    have_only(None);
    same!((msgget(1, 0o666), semget(1, 1, 0o666)), (Ok(queue), Ok(set)));
    same!((msg_remove(queue), sem_remove(set)), (Err(EPERM), Err(EPERM)));
    have_only(Some(Capability::SysAdmin));
    same!((msg_remove(queue), sem_remove(set)), (Ok(0), Ok(0)));
    Ok(())
}

fn sys_admin_passes_no_permissions() -> Outcome {
    let [queue, set] = objects()?;
    become_user(1000, 1000, &[]);
    have_only(Some(Capability::SysAdmin));
    same!((msgget(1, 0o666), semget(1, 1, 0o666)), (Err(EACCES), Err(EACCES)));
    same!((msgsnd(queue, 1, b"", NOWAIT), msg_stat(queue).err()), (Err(EACCES), Some(EACCES)));
    same!((getval(set, 0), sem_stat(set).err()), (Err(EACCES), Some(EACCES)));
    Ok(())
}

fn sys_admin_does_not_exceed_msgmnb() -> Outcome {
    become_user(1000, 1000, &[]);
    have_only(None);
    let queue = ok!(msgget(libc::IPC_PRIVATE, 0o600));
    same!(msg_set_qbytes(queue, 16385), Err(EPERM));
    have_only(Some(Capability::SysAdmin));
    same!(msg_set_qbytes(queue, 16385), Err(EPERM));
    Ok(())
}

fn root_without_any_is_as_others() -> Outcome {
    become_user(1000, 1000, &[]);
    let queue = ok!(msgget(libc::IPC_PRIVATE, 0o600));
    let set = ok!(semget(libc::IPC_PRIVATE, 1, 0o600));
    become_root();
    have_only(None);
    same!((msgsnd(queue, 1, b"", NOWAIT), msg_remove(queue)), (Err(EACCES), Err(EPERM)));
    same!((getval(set, 0), sem_remove(set)), (Err(EACCES), Err(EPERM)));
    // It is the owner of what is its own.
    let own = ok!(msgget(libc::IPC_PRIVATE, 0o600));
    same!((msgsnd(own, 1, b"", NOWAIT), msg_remove(own)), (Ok(0), Ok(0)));
    Ok(())
}
