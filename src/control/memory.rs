//! How many bytes the process may use, added up before it starts, and what the machine has.
//!
//! `memory_bytes_max = fixed + connections_max × CONNECTION_BYTES_MAX (TLS_CONNECTION_BYTES_MAX) + handshakes × HANDSHAKE_BYTES_MAX + flex`: what the rings, lanes
//! and buffers take whatever happens; what is reserved for each connection; what upgrades in flight may take; and the budget for
//! everything whose size depends on traffic. With a given total, flex is what is left. What the fixed part is, the driver says.
//! The kernel's own memory for sockets is beside this sum: it is told to the operator, and no bound of ours holds it.

use super::config::units::human_size;
use crate::limits;
use std::fmt;
use std::path::Path;

/// Upgrades in flight that memory is reserved for. More at once draw on flex, as every partial message does.
pub const HANDSHAKES_RESERVED: usize = 1_024;
/// What Linux holds for an accepted TCP socket with a multishot receive armed, in bytes: 3,630 in slabs and 859 for the armed
/// operation (measured on Linux 6.18, x86-64).
pub const KERNEL_BYTES_PER_CONNECTION: usize = 4_489;

/// The sum, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Rings, lanes, scratch and receive buffers of all shards, in bytes.
    pub fixed_bytes: usize,
    /// Connections over all shards.
    pub connections_max: usize,
    /// Bytes reserved for each: more where there is a TLS listener.
    pub connection_bytes_each: usize,
    /// Upgrades that memory is reserved for.
    pub handshakes: usize,
    /// Budget for what is not reserved, over all shards, in bytes.
    pub flex_bytes: usize,
}

impl MemoryPlan {
    /// Adds up the parts; with `total_max` flex is what is left of it, else [`limits::FLEX_BYTES_DEFAULT`].
    ///
    /// # Errors
    /// `total_max` leaves less than [`limits::FLEX_BYTES_MIN`]: the arithmetic, and what would be enough.
    pub fn new(fixed_bytes: usize, connections_max: usize, has_tls: bool, total_max: Option<u64>) -> Result<MemoryPlan, String> {
        let handshakes = connections_max.min(HANDSHAKES_RESERVED);
        let connection_bytes_each = if has_tls { limits::TLS_CONNECTION_BYTES_MAX } else { limits::CONNECTION_BYTES_MAX };
        let mut plan =
            MemoryPlan { fixed_bytes, connections_max, connection_bytes_each, handshakes, flex_bytes: limits::FLEX_BYTES_DEFAULT };
        if let Some(total_max) = total_max {
            let reserved = plan.reserved_bytes();
            let left = usize::try_from(total_max).unwrap_or(usize::MAX).saturating_sub(reserved);
            if left < limits::FLEX_BYTES_MIN {
                let enough = (reserved + limits::FLEX_BYTES_MIN).next_multiple_of(1 << 20) >> 20;
                plan.flex_bytes = limits::FLEX_BYTES_MIN;
                return Err(format!(
                    "memory-max {} is too small: {plan}; set memory-max to {enough}M or lower connections-max or shards",
                    human_size(total_max)
                ));
            }
            plan.flex_bytes = left;
        }
        Ok(plan)
    }

    /// Bytes reserved for connections.
    pub fn connection_bytes(&self) -> usize {
        self.connections_max.saturating_mul(self.connection_bytes_each)
    }

    /// Bytes reserved for upgrades in flight.
    pub fn handshake_bytes(&self) -> usize {
        self.handshakes * limits::HANDSHAKE_BYTES_MAX
    }

    /// Everything but flex.
    fn reserved_bytes(&self) -> usize {
        self.fixed_bytes.saturating_add(self.connection_bytes()).saturating_add(self.handshake_bytes())
    }

    /// `memory_bytes_max`.
    pub fn total_bytes(&self) -> usize {
        self.reserved_bytes().saturating_add(self.flex_bytes)
    }

    /// What the kernel will hold for the sockets beside [`MemoryPlan::total_bytes`], with empty queues.
    pub fn kernel_bytes(&self) -> usize {
        self.connections_max.saturating_mul(KERNEL_BYTES_PER_CONNECTION)
    }

    /// Whether the machine has it.
    ///
    /// # Errors
    /// The arithmetic, what the machine has, and what to do.
    pub fn check(&self, machine: &MachineMemory) -> Result<(), String> {
        if self.total_bytes() as u64 <= machine.bytes {
            return Ok(());
        }
        Err(format!(
            "memory: {self}, but {} is {}; lower memory-max, connections-max or shards",
            machine.source,
            human_size(machine.bytes)
        ))
    }
}

impl fmt::Display for MemoryPlan {
    /// The arithmetic on one line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "fixed {} + {} connections × {} B ({}) + {} handshakes × {} B ({}) + flex {} = {} B ({})",
            human_size(self.fixed_bytes as u64),
            self.connections_max,
            self.connection_bytes_each,
            human_size(self.connection_bytes() as u64),
            self.handshakes,
            limits::HANDSHAKE_BYTES_MAX,
            human_size(self.handshake_bytes() as u64),
            human_size(self.flex_bytes as u64),
            self.total_bytes(),
            human_size(self.total_bytes() as u64)
        )
    }
}

/// The memory that this process can have at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// The smallest of the bounds found, in bytes.
    pub bytes: u64,
    /// Which bound that is.
    pub source: String,
}

impl MachineMemory {
    /// The smaller of physical memory and the limits of the process's control groups. `None` where `/proc` does not tell.
    pub fn read() -> Option<MachineMemory> {
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
        let mut memory = MachineMemory { bytes: parse_meminfo(&meminfo)?, source: "the machine's memory (MemTotal)".to_owned() };
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for file in cgroup_limit_files(&groups) {
            let limit = std::fs::read_to_string(&file).ok().and_then(|text| parse_cgroup_limit(&text));
            if let Some(bytes) = limit
                && bytes < memory.bytes
            {
                memory = MachineMemory { bytes, source: format!("the control group's limit ({file})") };
            }
        }
        Some(memory)
    }
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `max`, and version 1's almost-2^63, mean that there is no limit; the latter is simply above every machine.
fn parse_cgroup_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files that may limit the process: of its group and of every group above, for cgroup version 2 and version 1.
fn cgroup_limit_files(proc_self_cgroup: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for ancestor in Path::new(path).ancestors() {
            let ancestor = ancestor.to_string_lossy();
            files.push(format!("{root}{}/{file}", ancestor.trim_end_matches('/')));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_parts_add_up_to_the_total() {
        let plan = MemoryPlan::new(10 * MIB, 10_000, false, None).unwrap();
        assert_eq!(plan.total_bytes(), 10 * MIB + 10_000 * 256 + 1_024 * limits::HANDSHAKE_BYTES_MAX + limits::FLEX_BYTES_DEFAULT);
    }

    #[test]
    fn with_a_total_flex_is_what_is_left() {
        let plan = MemoryPlan::new(10 * MIB, 10_000, false, Some(64 * MIB as u64)).unwrap();
        assert_eq!(plan.total_bytes(), 64 * MIB);
        assert!(plan.flex_bytes >= limits::FLEX_BYTES_MIN);
    }

    #[test]
    fn a_total_that_leaves_too_little_is_refused_with_one_that_is_enough() {
        let refusal = MemoryPlan::new(10 * MIB, 1_000_000, false, Some(64 * MIB as u64)).unwrap_err();
        assert!(refusal.contains("1000000 connections × 256 B"), "{refusal}");
        let enough = refusal.split("set memory-max to ").nth(1).unwrap().split('M').next().unwrap();
        assert!(MemoryPlan::new(10 * MIB, 1_000_000, false, Some(enough.parse::<u64>().unwrap() << 20)).is_ok());
    }

    #[test]
    fn a_machine_that_lacks_it_is_refused_and_absurd_counts_do_not_overflow() {
        let machine = MachineMemory { bytes: 1 << 30, source: "MemTotal".into() };
        assert!(MemoryPlan::new(MIB, 1_000, false, None).unwrap().check(&machine).is_ok());
        assert!(
            MemoryPlan::new(MIB, usize::MAX, false, None).unwrap().check(&machine).unwrap_err().contains("MemTotal is 1.0 GiB")
        );
    }

    #[test]
    fn machine_memory_is_read_from_what_the_kernel_writes() {
        assert_eq!(parse_meminfo("MemTotal:       24000 kB\nMemFree: 1 kB\n"), Some(24_000 * 1024));
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
        assert_eq!(parse_cgroup_limit("max\n"), None);
        assert_eq!(parse_cgroup_limit("1048576\n"), Some(1 << 20));
        assert!(MachineMemory::read().is_some_and(|memory| memory.bytes > 0));
    }

    #[test]
    fn the_limits_of_all_groups_above_count() {
        assert_eq!(
            cgroup_limit_files("0::/system.slice/throng.service\n"),
            [
                "/sys/fs/cgroup/system.slice/throng.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            cgroup_limit_files("5:cpu,memory:/a\n3:pids:/a\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }
}
