//! The command line: what can be asked for, and what is refused before anything is opened.

use super::clock::{MILLISECOND, Nanos, SECOND};
use super::scenario::hostile::CONNECTIONS_MIN;
use super::target::{Admin, Target};
use clap::{Args, Subcommand};

/// Connections of a run. Above: refused.
const CONNECTIONS_MAX: i64 = 1_000_000;
/// Hostile connections of a run, at least and at most: they share one thread.
const HOSTILE_MIN: i64 = CONNECTIONS_MIN as i64;
const HOSTILE_MAX: i64 = 4_000;
/// The longest duration that can be asked for.
const DURATION_MAX: Nanos = 24 * 3_600 * SECOND;

/// Load on a WebSocket server on this machine, and whether it kept what it promises.
///
/// Exit status 0: everything that the scenario checks has held. 1: something has not; it is said. 2: it could not be run.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Only loopback addresses are accepted. Each scenario has its own --help.")]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    pub(super) scenario: Scenario,
}

#[derive(Subcommand, Clone, Debug)]
pub(super) enum Scenario {
    /// Memory of the server per connection: connects in steps and measures the slope
    Density(Density),
    /// Messages per second and their latency against an endpoint that sends every message back
    Echo(Echo),
    /// Deliveries per second in one room, each publication awaited at every member
    Fanout(Fanout),
    /// Everybody connects at once, or comes back after the server has closed them
    Storm(Storm),
    /// A busy room with one member that reads slowly: it must not be disconnected
    SlowReader(SlowReader),
    /// Many rooms with a broadcast load while part of the members hardly read
    Incident(Incident),
    /// Groups publish to each other as fast as their windows allow: nothing may be lost or get stuck
    Flood(Flood),
    /// Clients that do whatever they must not, and well-behaved ones among them that must not notice
    Hostile(Hostile),
    /// More connections than one process has file descriptors; the one after the last allowed gets 503
    Many(Many),
}

#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Endpoint, on a loopback address [default: ws://127.0.0.1:9000/ws, of echo ws://127.0.0.1:9000/echo]
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    pub(super) url: Option<Target>,
    /// Admin server of throng, to read its metrics: http://127.0.0.1:9001
    #[arg(long, value_name = "URL", value_parser = Admin::parse)]
    pub(super) admin: Option<Admin>,
    /// Process of the server, to read its memory and CPU time
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Threads of the load generator, each with its own ring [default: as few as RLIMIT_NOFILE allows]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) threads: Option<u32>,
    /// Keep the load generator on this core
    #[arg(long, value_name = "CPU")]
    pub(super) pin: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Density {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections at the last step
    #[arg(long, default_value = "15000", value_parser = count())]
    pub(super) connections: u32,
    /// Connections at the first step
    #[arg(long, default_value = "1000", value_parser = count())]
    pub(super) from: u32,
    /// Steps in between and at the ends
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(2..=1_000))]
    pub(super) steps: u32,
    /// Members of a room; 0 puts all into one
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(0..=CONNECTIONS_MAX))]
    pub(super) room_size: u32,
    /// Different users [default: one for each connection]
    #[arg(long, value_parser = count())]
    pub(super) users: Option<u32>,
    /// Offer no subprotocol
    #[arg(long)]
    pub(super) plain: bool,
    /// Join no room
    #[arg(long)]
    pub(super) no_join: bool,
    /// Join without presence
    #[arg(long)]
    pub(super) no_presence: bool,
    /// For servers other than throng: connect and send nothing
    #[arg(long, conflicts_with_all = ["plain", "users"])]
    pub(super) peer_raw: bool,
    /// Rest at each step before memory is read, at least
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub(super) settle: Nanos,
    /// Fail above this many bytes a connection (needs --pid)
    #[arg(long, value_name = "BYTES", requires = "pid")]
    pub(super) bytes_max: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Echo {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    #[arg(long, default_value = "100", value_parser = count())]
    pub(super) connections: u32,
    /// Bytes of a message
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(super) bytes: u32,
    /// Messages of a connection that are under way
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) depth: u32,
    /// Time that is measured, after a second of warm-up
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(super) duration: Nanos,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Fanout {
    #[command(flatten)]
    pub(super) common: Common,
    /// Members of the room
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(super) connections: u32,
    /// Bytes of a publication's data
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(super) bytes: u32,
    /// Publications under way: the next is sent when one has come to all
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) in_flight: u32,
    /// Time that is measured, after a second of warm-up
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Offer no subprotocol and number no publication: nothing is acknowledged
    #[arg(long)]
    pub(super) plain: bool,
    /// For servers other than throng that send each message to all other connections as it came
    #[arg(long, conflicts_with = "plain")]
    pub(super) peer_raw: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Storm {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    #[arg(long, default_value = "5000", value_parser = count())]
    pub(super) connections: u32,
    /// The whole run takes at most this
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Once all are open, wait until the server has closed every one, and until all are open again
    #[arg(long)]
    pub(super) reconnect: bool,
    /// Wait exactly this before each further attempt, as naive clients do [default: full jitter]
    #[arg(long, value_parser = duration)]
    pub(super) fixed_delay: Option<Nanos>,
    /// Full jitter: the first window, doubled with each attempt
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub(super) base: Nanos,
    /// Full jitter: the largest window
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(super) cap: Nanos,
    /// Don't heed Retry-After
    #[arg(long)]
    pub(super) ignore_advice: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct SlowReader {
    #[command(flatten)]
    pub(super) common: Common,
    /// Members of the room, the slow one included
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub(super) connections: u32,
    /// How long
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Bytes a second that the slow one reads
    #[arg(long, default_value = "65536", value_parser = clap::value_parser!(u32).range(64..=1_073_741_824))]
    pub(super) read_rate: u32,
    /// Traffic of the room in percent of that
    #[arg(long, default_value = "90", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) load_percent: u32,
    /// The traffic comes in bursts, one each
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) burst_every: Nanos,
    /// Bytes of a publication's data
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(32..=65_000))]
    pub(super) bytes: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Incident {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    #[arg(long, default_value = "12000", value_parser = count())]
    pub(super) connections: u32,
    /// Users that they belong to
    #[arg(long, default_value = "1200", value_parser = count())]
    pub(super) users: u32,
    /// Rooms that each connection is in
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) rooms_each: u32,
    /// Members of a room
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub(super) room_size: u32,
    /// Slow readers in percent. They read less than their rooms bring them, so the server keeps the rest or ends them
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u32).range(0..=99))]
    pub(super) slow_percent: u32,
    /// Bytes a second that a slow one reads
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(super) slow_rate: u32,
    /// Publications a second, over all rooms
    #[arg(long, default_value = "400", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate: u32,
    /// Bytes of a publication's data
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(32..=65_000))]
    pub(super) bytes: u32,
    /// How long the load lasts
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Fail if the server's resident memory exceeds this many MiB at any time (needs --pid)
    #[arg(long, value_name = "MIB", default_value = "64")]
    pub(super) resident_max: u64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Flood {
    #[command(flatten)]
    pub(super) common: Common,
    /// Groups; each publishes to the room of the next and is in both
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(2..=256))]
    pub(super) groups: u32,
    /// Connections of a group
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) group_size: u32,
    /// Publications of a connection that are not acknowledged; the server's window is 64
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) window: u32,
    /// Bytes of a publication's data
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub(super) bytes: u32,
    /// How long they publish
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Growth of the server's memory that is no growth, in MiB: buffers that it keeps for their next use
    #[arg(long, value_name = "MIB", default_value = "16")]
    pub(super) growth_max: u64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Hostile {
    #[command(flatten)]
    pub(super) common: Common,
    /// Hostile connections at a time: at least one for each kind of action
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u32).range(HOSTILE_MIN..=HOSTILE_MAX))]
    pub(super) connections: u32,
    /// Rooms of four well-behaved clients each
    #[arg(long, default_value = "6", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) rooms: u32,
    /// How long they act. Afterwards the server has 90 s to be as it was
    #[arg(long, default_value = "3m", value_parser = duration)]
    pub(super) duration: Nanos,
    /// Makes every connection choose the same actions again, in the same order
    #[arg(long, default_value = "1")]
    pub(super) seed: u64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Many {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections: as many as the server's --connections-max
    #[arg(long, default_value = "38000", value_parser = count())]
    pub(super) connections: u32,
    /// Don't try the one after the last
    #[arg(long)]
    pub(super) no_refusal: bool,
    /// The whole run takes at most this
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub(super) duration: Nanos,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=CONNECTIONS_MAX)
}

/// Reads `250ms`, `10s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Nanos, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3_600 * SECOND,
        _ => return Err("it must be a whole number and a unit: 250ms, 10s, 5m or 1h".to_owned()),
    };
    let nanos = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match nanos {
        Some(nanos) if nanos > 0 && nanos <= DURATION_MAX => Ok(nanos),
        _ => Err("it must be between 1ms and 24h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<Scenario, String> {
        let matches = Cli::command().try_get_matches_from(line.split(' ')).map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map(|cli| cli.bench.scenario).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_that_the_help_tells() {
        let Scenario::Density(density) = parse("bench density").unwrap() else { panic!() };
        assert_eq!((density.from, density.connections, density.room_size, density.settle), (1_000, 15_000, 100, 3 * SECOND));
        let Scenario::SlowReader(slow) = parse("bench slow-reader").unwrap() else { panic!() };
        assert_eq!((slow.duration, slow.read_rate), (300 * SECOND, 65_536));
    }

    #[test]
    fn bad_arguments_are_refused_with_the_reason() {
        for (line, reason) in [
            ("bench echo --url ws://10.1.2.3:80/", "loopback"),
            ("bench echo --url wss://127.0.0.1:80/", "ws://"),
            ("bench echo --duration 10", "unit"),
            ("bench echo --duration 0s", "between"),
            ("bench echo --duration 25h", "between"),
            ("bench echo --connections 0", "1..=1000000"),
            ("bench fanout --connections 1", "2..=100000"),
            ("bench density --bytes-max 3", "--pid"),
            ("bench fanout --plain --peer-raw", "cannot be used with"),
            ("bench storm --admin http://1.1.1.1:80", "loopback"),
            ("bench hostile --connections 3", "..=4000"),
            ("bench hostile --rooms 0", "1..=64"),
            ("bench nonsense", "unrecognized subcommand"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(
            [duration("250ms"), duration("10s"), duration("5m"), duration("1h")].map(Result::unwrap),
            [250 * MILLISECOND, 10 * SECOND, 300 * SECOND, 3_600 * SECOND]
        );
        for bad in ["", "s", "1.5s", "-1s", "10 s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
