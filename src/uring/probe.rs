//! What the running kernel offers, and what stands in the way of a ring, with cause and remedy.
//!
//! It decides nothing else: the caller refuses to start, or prints.

use super::buffers::{Buffers, BuffersConfig};
use super::ring::Ring;
use io_uring::{Probe, opcode};
use std::fmt;
use std::io;

/// The operations that a server needs, with the kernel version that brought each.
const OPERATIONS: &[(u8, &str, &str)] = &[
    (opcode::AcceptMulti::CODE, "ACCEPT", "5.5"),
    (opcode::RecvMulti::CODE, "RECV", "5.6"),
    (opcode::Send::CODE, "SEND", "5.6"),
    (opcode::PollAdd::CODE, "POLL_ADD", "5.1"),
    (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL", "5.5"),
    (opcode::Close::CODE, "CLOSE", "5.6"),
    (opcode::MsgRingData::CODE, "MSG_RING", "5.18"),
];

/// The operations that only the load generator needs.
const CLIENT_OPERATIONS: &[(u8, &str, &str)] = &[
    (opcode::Socket::CODE, "SOCKET", "5.19"),
    (opcode::Connect::CODE, "CONNECT", "5.5"),
    (opcode::Bind::CODE, "BIND", "6.11"),
    (opcode::SetSockOpt::CODE, "URING_CMD", "5.19"),
];

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Buffers are filled piece by piece (`IOU_PBUF_RING_INC`, Linux 6.12). Without it receiving takes more buffers.
    pub incremental_buffers: bool,
    /// Everything that the load generator needs is there too.
    pub client_operations: bool,
    /// RLIMIT_NOFILE now: the most slots of one ring.
    pub descriptors: u64,
    /// What RLIMIT_NOFILE may be raised to without privilege.
    pub descriptors_hard: u64,
    /// RLIMIT_MEMLOCK in bytes. Kernels from 5.12 on charge rings to the memory control group instead.
    pub memlock_bytes: u64,
    /// `net.core.somaxconn`, to which a listener's backlog is clipped, if it can be read.
    pub somaxconn: Option<u32>,
}

/// Why no ring can be had. Its text carries the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel has no io_uring at all.
    Missing {
        /// `uname -r`.
        release: String,
    },
    /// Switched off by `kernel.io_uring_disabled`, with its value.
    Disabled(u32),
    /// Refused although it is not switched off: a seccomp filter or a security module.
    Forbidden,
    /// The kernel is older than the set-up flags that are needed.
    TooOld {
        /// `uname -r`.
        release: String,
        /// What it lacks.
        lacks: &'static str,
        /// The version that brought it.
        since: &'static str,
    },
    /// No memory for the rings.
    Memory {
        /// RLIMIT_MEMLOCK in bytes.
        memlock_bytes: u64,
    },
    /// No descriptor left.
    Descriptors {
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// Anything else, as the kernel says it.
    Other(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Missing { release } => {
                write!(f, "Linux {release} was built without io_uring; use a kernel of 6.1 or later with CONFIG_IO_URING=y")
            }
            Obstacle::Disabled(value) => {
                write!(f, "kernel.io_uring_disabled is {value}; run `sysctl -w kernel.io_uring_disabled=0`")?;
                if *value == 1 {
                    write!(f, ", or put this user into the group that kernel.io_uring_group names")?;
                }
                Ok(())
            }
            Obstacle::Forbidden => write!(
                f,
                "io_uring_setup is forbidden although kernel.io_uring_disabled is 0: a seccomp filter or security module stands in \
                 the way; in a container run with a profile that allows io_uring (`--security-opt seccomp=unconfined` lifts all)"
            ),
            Obstacle::TooOld { release, lacks, since } => {
                write!(f, "Linux {release} lacks {lacks}, which came with {since}; boot a kernel of 6.1 or later")
            }
            Obstacle::Memory { memlock_bytes } => write!(
                f,
                "the kernel has no memory for the rings (RLIMIT_MEMLOCK is {memlock_bytes} bytes); run `ulimit -l unlimited`, or raise \
                 the memory limit of the control group"
            ),
            Obstacle::Descriptors { limit } => {
                write!(f, "no file descriptor left (RLIMIT_NOFILE is {limit}); run `ulimit -n` with a higher number")
            }
            Obstacle::Other(text) => write!(f, "io_uring can't be used: {text}"),
        }
    }
}

impl std::error::Error for Obstacle {}

impl Kernel {
    /// Asks the kernel, by making a small ring of the kind that the server uses.
    ///
    /// # Errors
    /// The first obstacle.
    pub fn probe() -> Result<Kernel, Obstacle> {
        let release = release();
        let ring = Ring::builder(16).build(8).map_err(|error| Obstacle::from_setup(&error, &release))?;
        if !ring.params().is_feature_ext_arg() {
            return Err(Obstacle::TooOld { release, lacks: "a timeout for io_uring_enter", since: "5.11" });
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|error| Obstacle::from_setup(&error, &release))?;
        for &(code, lacks, since) in OPERATIONS {
            if !probe.is_supported(code) {
                return Err(Obstacle::TooOld { release, lacks, since });
            }
        }
        let config = BuffersConfig { count: 1, bytes: 4096 };
        let buffers = Buffers::register(&ring, config, true).map_err(|error| Obstacle::from_setup(&error, &release))?;
        let incremental_buffers = buffers.is_incremental();
        // The ring before the buffers that are registered with it.
        drop(ring);
        drop(buffers);
        let (descriptors, descriptors_hard) = limit(libc::RLIMIT_NOFILE);
        Ok(Kernel {
            release,
            incremental_buffers,
            client_operations: CLIENT_OPERATIONS.iter().all(|&(code, ..)| probe.is_supported(code)),
            descriptors,
            descriptors_hard,
            memlock_bytes: limit(libc::RLIMIT_MEMLOCK).0,
            somaxconn: read_number("/proc/sys/net/core/somaxconn"),
        })
    }
}

impl Obstacle {
    /// From what making or registering a ring came to.
    pub fn from_setup(error: &io::Error, release: &str) -> Obstacle {
        match error.raw_os_error() {
            // ENOSYS: not compiled in.
            Some(libc::ENOSYS) => Obstacle::Missing { release: release.to_owned() },
            // EPERM: the sysctl, or a filter that answers so. EACCES: some filters.
            Some(libc::EPERM | libc::EACCES) => match read_number("/proc/sys/kernel/io_uring_disabled") {
                Some(value) if value > 0 => Obstacle::Disabled(value),
                _ => Obstacle::Forbidden,
            },
            // EINVAL: a set-up flag that it doesn't know; DEFER_TASKRUN is the newest.
            Some(libc::EINVAL) => {
                Obstacle::TooOld { release: release.to_owned(), lacks: "IORING_SETUP_DEFER_TASKRUN", since: "6.1" }
            }
            Some(libc::ENOMEM) => Obstacle::Memory { memlock_bytes: limit(libc::RLIMIT_MEMLOCK).0 },
            // EMFILE: this process's limit; ENFILE: the machine's.
            Some(libc::EMFILE | libc::ENFILE) => Obstacle::Descriptors { limit: limit(libc::RLIMIT_NOFILE).0 },
            _ => Obstacle::Other(error.to_string()),
        }
    }
}

/// Raises the soft limit of descriptors to the hard one, and says what it is now. A table of slots is limited to it.
pub fn raise_descriptor_limit() -> u64 {
    let (soft, hard) = limit(libc::RLIMIT_NOFILE);
    let wanted = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the struct is readable. A refusal leaves the limit as it was, which is read again below.
    if soft < hard && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0 { hard } else { soft }
}

/// Soft and hard limit of a resource; 0 if the kernel doesn't say.
fn limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is writable.
    unsafe { libc::getrlimit(resource, &mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

fn read_number(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "(unknown)".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_the_tests_has_what_is_needed() {
        let kernel = Kernel::probe().unwrap();
        assert!(kernel.descriptors > 0);
    }

    #[test]
    fn an_old_kernel_is_named_with_the_version_to_boot() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let text = Obstacle::from_setup(&error, "5.15.0").to_string();
        assert!(text.contains("5.15.0") && text.contains("6.1"), "{text}");
    }

    #[test]
    fn a_switched_off_io_uring_is_told_with_the_command_that_switches_it_on() {
        assert_eq!(Obstacle::Disabled(2).to_string(), "kernel.io_uring_disabled is 2; run `sysctl -w kernel.io_uring_disabled=0`");
    }
}
