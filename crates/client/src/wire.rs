//! The questions a client asks the broker, one per connection.

/// First word of each message: name and version.
pub const MAGIC: u32 = 0x6970_6300 | arena::LAYOUT_VERSION;
/// Environment variable that names the socket.
pub const SOCKET_ENV: &str = "IPCSPACE_SOCKET";

/// I am a process of the namespace: give me a slot.
pub const ASK_ATTACH: u32 = 1;
/// Give me the file, to map more of it.
pub const ASK_FILE: u32 = 2;
/// Make more thread slots.
pub const ASK_THREADS: u32 = 3;
/// Keep the namespace as long as this connection lives.
pub const ASK_LEASE: u32 = 4;

/// Give me the memory of a segment, whose number the arguments are.
pub const ASK_MEMORY: u32 = 5;
/// As [`ASK_MEMORY`], so that it can't be written.
pub const ASK_MEMORY_TO_READ: u32 = 6;
/// Count the mappings of the segment in the first argument, and destroy it if it is over.
pub const ASK_COUNT: u32 = 7;
/// Destroy what is over, and say how much memory the segments have: pages that are resident, and pages swapped out.
pub const ASK_USAGE: u32 = 8;

/// Take what was given.
pub const ASK_TAKE: u32 = 9;
/// Give me a descriptor of the POSIX queue whose handle is the first argument; the second one is the flags.
pub const ASK_QUEUE: u32 = 14;
/// Has anybody a descriptor of the POSIX queue whose handle is the first argument? The answer's first word is 0 if not.
pub const ASK_QUEUE_HELD: u32 = 15;
/// Send the signal of the notification of the POSIX queue whose handle is the first argument, whose lock I hold.
pub const ASK_NOTIFY: u32 = 28;
/// How much of this memory, whose number the arguments are, there is: answered as [`ASK_USAGE`].
pub const ASK_MEMORY_USAGE: u32 = 11;
/// Keep this memory, whose number the arguments are, from being swapped out.
pub const ASK_LOCK: u32 = 12;
/// Let it be swapped out again.
pub const ASK_UNLOCK: u32 = 13;
/// How many objects and processes are there, and who serves them. The answer is longer: see [`STATUS`].
pub const ASK_STATUS: u32 = 20;
/// End the namespace, with all that is in it. Answered when that has begun; the connection ends when it is over.
pub const ASK_END: u32 = 21;
/// I have gone to another namespace; what I have attached stays attached.
pub const ASK_LEAVE: u32 = 22;
/// Make another namespace. The answer comes with a connection that keeps it.
pub const ASK_NEW_NAMESPACE: u32 = 23;
/// The namespace of the process in the first argument. The answer comes with a connection that keeps it.
pub const ASK_NAMESPACE_OF: u32 = 24;
/// Is the process in the first argument one of yours?
pub const ASK_HAS: u32 = 25;
/// I am a forked child, and have attached what my parent had when it forked: the first argument says how many segments' identifiers
/// follow, each as often as it is attached; the second one is not 0 if there are more than are known. Nothing is answered.
pub const TELL_FORKED: u32 = 10;
/// At most so many identifiers follow.
pub const INHERITED: usize = 64;

/// I am a stranger: make my calls for me, over this connection. See [`calls`].
pub const ASK_CALLS: u32 = 26;

/// Serve a view of the namespace: the descriptor it was mounted with follows over this connection, and then another answer.
pub const ASK_VIEW: u32 = 27;

/// Make the calls that are asked about at a listener, which follows over this connection; another answer then comes, and from then on questions about
/// processes of yours. See the trap.
pub const ASK_TRAP: u32 = 29;

/// What a POSIX queue's descriptors are of: the socket's name with this behind it, and the queue's handle in eight digits.
pub const QUEUE: &str = ".queue.";
/// Files are given at a socket of their own, which is the owner's alone: the other one's name with this behind it.
pub const GIVEN: &str = ".given";
/// I have put the owner's rights aside, and can't connect there: give me a connection as to there.
pub const ASK_GIVE: u32 = 30;
/// Here is the memory of the segment whose handle is the first argument; the second one is the giver's process id.
pub const GIVE_MEMORY: u32 = 16;

/// Bytes of a question: magic, which, and two words of argument.
pub const QUESTION: usize = 16;
/// Bytes of the longest message.
pub const LONGEST: usize = QUESTION + 4 * INHERITED;
/// Bytes of an answer: magic, error number or 0, and two words: for [`ASK_ATTACH`] the process slot's handle, and 0, or 1 where the process
/// is in another namespace: then a connection to that one's broker comes with it.
pub const ANSWER: usize = 16;

/// Words of the answer to [`ASK_STATUS`]: magic, 0, queues, sets, segments, processes, the broker's process id, and whether it
/// serves until it is told to end.
pub const STATUS: usize = 8;

/// Four words as bytes.
pub fn encode(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Bytes as four words.
pub fn decode(bytes: &[u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
    }
    words
}

/// The calls of strangers: one at a time on a connection. Each message has a head of [`HEAD`] words, the first of which is its kind; bytes of the
/// stranger's memory may follow.
pub mod calls {
    use abi::syscall as nr;

    /// Words of a head. In those to the stranger, the last one is the message's number.
    pub const HEAD: usize = 13;
    /// Most bytes behind a head.
    pub const BYTES_MAX: usize = 64 << 10;

    /// From the stranger: number, six registers, two ranges of memory that follow (both addresses, and both lengths in one word, the second one above), the
    /// number by which the call is known if it is made anew for a broker that was killed in the middle of it, never the same for two of a thread's, and the
    /// thread's id with the number of its CPU plus one above it.
    pub const CALL: u64 = 1;
    // Numbers of calls that are none of the kernel's, on POSIX queues: the first register is a descriptor's number, but for the first of them.
    /// A descriptor of the queue whose handle is in the first register has been closed.
    pub const MQ_CLOSED: i64 = -4;
    /// It may be polled at any time from now on; if the second register is not 0, for what is new.
    pub const MQ_WATCH: i64 = -5;
    /// Tell the thread of a message, or of the end of its registration: [`BEGUN`] comes first.
    pub const MQ_NOTIFY_THREAD: i64 = -6;
    /// Store what is to be seen of the queue at the place in the second register: words of `MqStat`.
    pub const MQ_STAT: i64 = -7;
    /// Calls with a queue's descriptor, which goes along.
    pub const ON_QUEUES: [i64; 7] = [
        nr::MQ_TIMEDSEND,
        nr::MQ_TIMEDRECEIVE,
        nr::MQ_NOTIFY,
        nr::MQ_GETSETATTR,
        MQ_WATCH,
        MQ_NOTIFY_THREAD,
        MQ_STAT,
    ];
    // On segments.
    /// Something of what I have attached of the segment in the first register is unmapped; if the second one is not 0, nothing is left of that attachment.
    pub const SHM_UNMAPPED: i64 = -8;
    /// I am about to fork.
    pub const SHM_FORK: i64 = -9;
    // And on files: the first register is the file's number.
    /// Store a line at the place in the third register, of the size in the fourth: of a list the first row at the index in the second register or
    /// above. The result is its length, and above `proc::LENGTH_BITS` the index to go on from, 0 behind the last.
    pub const SHOW: i64 = -1;
    /// May I write it?
    pub const MAY_WRITE: i64 = -2;
    /// Write to it, at the offset in the second register, the bytes whose place and number are in the two after it.
    pub const WRITE: i64 = -3;

    /// From the stranger: error number or 0, and a result; behind it the bytes of a [`FETCH`].
    pub const DONE: u64 = 2;
    /// From the stranger: a signal has come, end the call.
    pub const INTERRUPT: u64 = 3;
    /// To the stranger: send these bytes of your memory, address and length.
    pub const FETCH: u64 = 4;
    /// To the stranger: store the bytes that follow in your memory, address and length. Not answered.
    pub const STORE: u64 = 5;
    /// To the stranger: map the file that comes with this: identifier, memory, kind of place, address, whether to write and to execute.
    pub const MAP: u64 = 6;
    /// To the stranger: unmap what is attached at this address.
    pub const UNMAP: u64 = 7;
    /// From the stranger, in the middle of unmapping: which segment has this memory?
    pub const LOOK_UP: u64 = 9;
    /// To the stranger: the segment's identifier plus one, or 0 if there is none, and its size in whole pages.
    pub const KNOWN: u64 = 10;
    /// To the stranger: the call sleeps now.
    pub const BEGUN: u64 = 11;
    /// To the stranger: error number or 0, result; address and length of bytes to store, which follow; of a new descriptor of a queue, which comes
    /// with this and is the result, the queue's handle and the flags of `mq_open`; and the number of the CPU plus one. With the call comes the descriptor that it is about.
    pub const ANSWER: u64 = 8;

    /// A CPU's number as the messages have it: not 0.
    pub fn cpu(number: u32) -> u64 {
        u64::from(number) + 1
    }

    /// The CPU's number in a word of a message's, if there is one.
    pub fn cpu_of(word: u64) -> Option<u32> {
        u32::try_from(word.checked_sub(1)?).ok()
    }
}
