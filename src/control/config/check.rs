//! Whether settings agree with each other and with the machine, and what they come to.
//!
//! Pure: the machine is an argument. A contradiction is refused with its reason; what is merely unusual is a warning.

use super::super::memory::{MachineMemory, MemoryPlan};
use super::units::{format_duration, format_size};
use super::{Config, ConfigError, Settings};
use crate::driver::Plan;
use crate::limits::{self, GHOST_BOUND_MS, Limits};
use std::net::{IpAddr, SocketAddr};

/// What the machine allows.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Cores that this process may run on.
    pub cores: usize,
    /// RLIMIT_NOFILE as it is in force: the size of one ring's file table.
    pub files_max: u64,
    /// `None` if it can't be known.
    pub memory: Option<MachineMemory>,
}

/// What a configuration comes to on a machine.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Shards.
    pub shards: usize,
    /// Bounds, all filled in.
    pub limits: Limits,
    /// The sum of memory.
    pub memory: MemoryPlan,
    /// What the operator should know though it is not refused.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Bytes that may wait for one socket: what was set, or the default grown to two messages.
    pub fn send_queue_bytes_max(&self) -> usize {
        let least = 2 * self.bounds.message_bytes_max;
        self.send_queue_bytes_max.unwrap_or(Limits::default().send_queue_bytes_max.max(least))
    }
}

/// Checks everything and adds it up.
///
/// # Errors
/// Every contradiction that was found.
pub fn effective(config: &Config, machine: &Machine) -> Result<Effective, ConfigError> {
    let settings = &config.settings;
    let shards = settings.shards.unwrap_or(machine.cores).clamp(1, limits::SHARDS_MAX);
    let mut limits = settings.bounds.clone();
    limits.send_queue_bytes_max = settings.send_queue_bytes_max();
    let mut causes = Vec::new();
    let mut warnings = config.warnings.clone();

    if overlap(settings.listen, settings.admin) {
        causes
            .push(format!("listen {} and admin {} are the same address: give admin another port", settings.listen, settings.admin));
    }
    let messages = 2 * limits.message_bytes_max;
    if limits.send_queue_bytes_max < messages {
        causes.push(format!(
            "send-queue-bytes-max {} is less than two messages (2 × message-bytes-max {} = {}): a connection could never hold one message while the next comes",
            format_size(limits.send_queue_bytes_max as u64),
            format_size(limits.message_bytes_max as u64),
            format_size(messages as u64)
        ));
    }
    if limits.presence_state_bytes_max > limits.message_bytes_max {
        causes.push(format!(
            "presence-state-bytes-max {} is more than message-bytes-max {}: no message could carry such a state",
            format_size(limits.presence_state_bytes_max as u64),
            format_size(limits.message_bytes_max as u64)
        ));
    }
    // How the tables of the rings are cut, and so what they take, the driver decides.
    let plan = Plan::new(&limits, shards, machine.files_max).map_err(|error| error.to_string());
    let memory = plan.and_then(|plan| {
        let memory = MemoryPlan::new(plan.fixed_bytes(), limits.connections_max, settings.has_tls(), settings.memory_bytes_max)?;
        machine.memory.as_ref().map_or(Ok(()), |machine| memory.check(machine))?;
        Ok(memory)
    });
    let memory = memory.map_err(|cause| causes.push(cause)).ok();
    if let Some(plan) = memory {
        limits.flex_bytes_max = plan.flex_bytes;
        if plan.flex_bytes / shards < messages {
            causes.push(format!(
                "the flexible memory of one shard ({} / {shards}) does not hold two messages of {}: raise memory-max or lower message-bytes-max",
                format_size(plan.flex_bytes as u64),
                format_size(limits.message_bytes_max as u64)
            ));
        }
        if let Some(bytes) = limits.history_memory_bytes_max.filter(|bytes| *bytes > plan.flex_bytes / 2) {
            causes.push(format!(
                "history-memory {} is more than half of the flexible memory ({}): raise memory-max or lower history-memory",
                format_size(bytes as u64),
                format_size(plan.flex_bytes as u64)
            ));
        }
        check_kernel_memory(&plan, machine, &mut warnings);
    }
    let bound = limits.ghost_bound_ms();
    if bound > GHOST_BOUND_MS {
        warnings.push(format!(
            "heartbeat {} + timeout {} + presence-grace {}: a vanished peer may stay in presence for {}; with the defaults it is gone within {}",
            format_duration(limits.heartbeat_ms),
            format_duration(limits.timeout_ms),
            format_duration(limits.presence_grace_ms),
            // Whole seconds, rounded up: a bound to plan with.
            format_duration(bound.next_multiple_of(1_000)),
            format_duration(GHOST_BOUND_MS)
        ));
    }
    match memory {
        Some(memory) if causes.is_empty() => Ok(Effective { shards, limits, memory, warnings }),
        _ => Err(ConfigError { causes }),
    }
}

fn check_kernel_memory(plan: &MemoryPlan, machine: &Machine, warnings: &mut Vec<String>) {
    let Some(memory) = &machine.memory else { return };
    let total = (plan.total_bytes() as u64).saturating_add(plan.kernel_bytes() as u64);
    if total > memory.bytes {
        warnings.push(format!(
            "with all connections open the kernel's sockets take about {} beside our {}, together more than {} of {}",
            super::units::human_size(plan.kernel_bytes() as u64),
            super::units::human_size(plan.total_bytes() as u64),
            memory.source,
            super::units::human_size(memory.bytes)
        ));
    }
}

/// Whether two listeners would take each other's connections: same port, and one address contains the other. Port 0 is any free port.
pub fn overlap(left: SocketAddr, right: SocketAddr) -> bool {
    if left.port() != right.port() || left.port() == 0 {
        return false;
    }
    let (left, right) = (left.ip().to_canonical(), right.ip().to_canonical());
    let covers = |outer: IpAddr, inner: IpAddr| match outer {
        // A dual-stack listener on [::] takes IPv4 as well.
        IpAddr::V6(address) if address.is_unspecified() => true,
        IpAddr::V4(address) if address.is_unspecified() => inner.is_ipv4(),
        IpAddr::V4(_) | IpAddr::V6(_) => outer == inner,
    };
    covers(left, right) || covers(right, left)
}

#[cfg(test)]
mod tests {
    use super::super::{KEYS, Sources};
    use super::*;

    fn machine() -> Machine {
        let memory = MachineMemory { bytes: 8 << 30, source: "MemTotal".into() };
        Machine { cores: 2, files_max: 20_000, memory: Some(memory) }
    }

    fn check(flags: &[(&str, &str)]) -> Result<Effective, ConfigError> {
        let index = |name: &str| KEYS.iter().position(|key| key.name == name).unwrap();
        let flags = flags.iter().map(|(name, text)| (index(name), (*text).to_owned())).collect();
        let config = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        effective(&config, &machine())
    }

    fn refusal(flags: &[(&str, &str)]) -> String {
        check(flags).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_without_contradiction_and_without_warning() {
        let effective = check(&[]).unwrap();
        assert_eq!(effective.shards, 2);
        assert!(effective.warnings.is_empty(), "{:?}", effective.warnings);
        assert_eq!(effective.limits, Limits { flex_bytes_max: limits::FLEX_BYTES_DEFAULT, ..Limits::default() });
    }

    #[test]
    fn connections_past_the_file_limit_need_more_shards_and_are_told_how_many() {
        let refusal = refusal(&[("connections-max", "50000")]);
        assert!(refusal.contains("--shards 3"), "{refusal}");
        assert!(check(&[("connections-max", "50000"), ("shards", "3")]).is_ok());
    }

    #[test]
    fn too_little_memory_is_refused_with_the_arithmetic() {
        let refusal = refusal(&[("memory-max", "16M")]);
        assert!(refusal.contains("+ 16384 connections × 256 B (4.0 MiB) +"), "{refusal}");
    }

    #[test]
    fn more_memory_than_the_machine_has_is_refused() {
        assert!(refusal(&[("memory-max", "9G")]).contains("MemTotal is 8.0 GiB"));
    }

    #[test]
    fn a_send_queue_of_less_than_two_messages_is_refused_when_it_was_chosen_and_grown_when_it_was_not() {
        assert!(refusal(&[("message-bytes-max", "1M"), ("send-queue-bytes-max", "1M")]).contains("2M"));
        assert_eq!(check(&[("message-bytes-max", "16777216")]).unwrap().limits.send_queue_bytes_max, 32 << 20);
    }

    #[test]
    fn admin_may_not_be_the_listen_address_in_any_disguise() {
        for admin in ["127.0.0.1:9000", "0.0.0.0:9000", "[::]:9000", "[::ffff:127.0.0.1]:9000"] {
            assert!(refusal(&[("admin", admin)]).contains("same address"), "{admin}");
        }
        assert!(check(&[("admin", "127.0.0.2:9000")]).is_ok());
        assert!(check(&[("admin", "127.0.0.1:0"), ("listen", "127.0.0.1:0")]).is_ok());
    }

    #[test]
    fn a_longer_ghost_bound_is_allowed_and_said() {
        let warnings = check(&[("heartbeat", "60s")]).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("76s"), "{warnings:?}");
    }

    #[test]
    fn a_state_that_no_message_could_carry_is_refused() {
        assert!(refusal(&[("message-bytes-max", "1K"), ("presence-state-bytes-max", "2K")]).contains("no message"));
    }

    #[test]
    fn several_contradictions_are_told_together() {
        assert_eq!(check(&[("admin", "127.0.0.1:9000"), ("memory-max", "16M")]).unwrap_err().causes.len(), 2);
    }

    #[test]
    fn an_address_overlaps_with_the_wildcard_of_its_family_and_with_the_dual_stack_one() {
        let overlaps = |left: &str, right: &str| overlap(left.parse().unwrap(), right.parse().unwrap());
        assert!(overlaps("127.0.0.1:1", "0.0.0.0:1") && overlaps("0.0.0.0:1", "[::]:1") && overlaps("[::1]:1", "[::]:1"));
        assert!(
            !overlaps("127.0.0.1:1", "127.0.0.2:1") && !overlaps("[::1]:1", "0.0.0.0:1") && !overlaps("0.0.0.0:1", "0.0.0.0:2")
        );
    }
}
