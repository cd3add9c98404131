//! POSIX message queues (`<linux/mqueue.h>`), and what `mq_open` and `mq_notify` take from elsewhere.

/// Priorities are below it.
pub const MQ_PRIO_MAX: u32 = 32768;
/// Longest name, bytes.
pub const NAME_MAX: usize = 255;
/// Longest path with its end, bytes.
pub const PATH_MAX: usize = 4096;

/// Default most queues.
pub const DFLT_QUEUESMAX: i32 = 256;
/// Default most messages of a queue, and how many one has that doesn't say.
pub const DFLT_MSG: i32 = 10;
/// Largest limit on the messages of a queue.
pub const HARD_MSGMAX: i32 = 65536;
/// Default longest message, bytes, and what a queue has that doesn't say.
pub const DFLT_MSGSIZE: i32 = 8192;
/// Least limit on the length of a message, bytes.
pub const MIN_MSGSIZEMAX: i32 = 128;
/// Largest limit on the length of a message, bytes.
pub const HARD_MSGSIZEMAX: i32 = 16 * 1024 * 1024;

/// For writing only.
pub const O_WRONLY: i32 = 1;
/// For reading and writing.
pub const O_RDWR: i32 = 2;
/// The bits that say for what.
pub const O_ACCMODE: i32 = 3;
/// Make it if it is not there.
pub const O_CREAT: i32 = 0o100;
/// Only make it.
pub const O_EXCL: i32 = 0o200;
/// Don't wait.
pub const O_NONBLOCK: i32 = 0o4000;

/// A notification is a signal.
pub const SIGEV_SIGNAL: i32 = 0;
/// A notification is nothing.
pub const SIGEV_NONE: i32 = 1;
/// A notification is a message to a socket, which libc makes a thread of.
pub const SIGEV_THREAD: i32 = 2;
/// `si_code` of a notification's signal.
pub const SI_MESGQ: i32 = -3;
/// Highest signal.
pub const NSIG: i32 = 64;

crate::plain::plain! {
    /// `struct mq_attr`.
    pub struct MqAttr {
        /// `O_NONBLOCK`.
        pub mq_flags: i64,
        /// Most messages.
        pub mq_maxmsg: i64,
        /// Longest message, bytes.
        pub mq_msgsize: i64,
        /// Messages there are.
        pub mq_curmsgs: i64,
        /// Nothing.
        pub reserved: [u64; 4],
    }

    /// `struct sigevent`.
    pub struct Sigevent {
        /// What the signal brings, or where the cookie is.
        pub sigev_value: u64,
        /// The signal, or the socket.
        pub sigev_signo: i32,
        /// `SIGEV_*`.
        pub sigev_notify: i32,
        /// A thread's function and attributes, of libc.
        pub sigev_thread: [u64; 2],
        /// Nothing.
        pub pad: [u64; 4],
    }
}
const _: () = assert!(size_of::<MqAttr>() == 64 && size_of::<Sigevent>() == 64);
