//! The scenarios, and what they share: opening connections, joining rooms, measuring the server.

pub(super) mod density;
pub(super) mod echo;
pub(super) mod fanout;
pub(super) mod flood;
pub(super) mod hostile;
pub(super) mod incident;
pub(super) mod many;
pub(super) mod slow_reader;
pub(super) mod storm;

use super::args::Common;
use super::clock::{Nanos, SECOND};
use super::crew::{Place, ring_failed};
use super::message::{Kind, Rooms, Writer, kind_of};
use super::observe::{Metrics, Process};
use super::outbox::Outbox;
use super::report::{Report, rounded};
use super::tally::Tally;
use super::target::Target;
use super::worker::{Event, Worker};
use crate::protocol::Dialect;

/// How long opening all connections and joining all rooms of one step may take.
const OPEN_DEADLINE: Nanos = 120 * SECOND;

/// What a scenario makes of events.
trait Handler {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>);
}

/// Goes on while `pending` and before `until`. False if it ran out of time.
fn run_while<H: Handler>(
    worker: &mut Worker,
    handler: &mut H,
    until: Nanos,
    pending: impl Fn(&H, &Worker) -> bool,
) -> Result<bool, String> {
    while pending(handler, worker) {
        if worker.outbox().now() >= until {
            return Ok(false);
        }
        worker
            .turn(until, &mut |outbox, connection, event| handler.handle(outbox, connection, event))
            .map_err(|e| ring_failed(&e))?;
    }
    Ok(true)
}

/// Goes on until `until`.
fn run_until<H: Handler>(worker: &mut Worker, handler: &mut H, until: Nanos) -> Result<(), String> {
    worker.run_until(until, &mut |outbox, connection, event| handler.handle(outbox, connection, event)).map_err(|e| ring_failed(&e))
}

/// Goes on until all workers are here.
fn meet<H: Handler>(place: &mut Place<'_>, worker: &mut Worker, handler: &mut H) -> Result<(), String> {
    place.meet(worker, &mut |outbox, connection, event| handler.handle(outbox, connection, event))
}

/// The endpoint that was asked for, or `default_path` where the server listens by default.
fn target(common: &Common, default_path: &str, protocol: Option<&'static str>) -> Target {
    let default = || Target::parse(&format!("ws://127.0.0.1:9000{default_path}")).expect("the default is a loopback endpoint");
    Target { protocol, ..common.url.clone().unwrap_or_else(default) }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    /// `throng.v1` or plain.
    Throng(Dialect),
    /// Nothing: another server, which makes everybody a member of one room.
    Raw,
}

impl Speech {
    fn of(plain: bool, raw: bool) -> Speech {
        match (plain, raw) {
            (_, true) => Speech::Raw,
            (true, false) => Speech::Throng(Dialect::Plain),
            (false, false) => Speech::Throng(Dialect::V1),
        }
    }
    fn protocol(self) -> Option<&'static str> {
        (self == Speech::Throng(Dialect::V1)).then_some(Dialect::V1_SUBPROTOCOL)
    }
}

/// Opens connections and makes each a member of its rooms.
#[derive(Debug)]
struct Members {
    speech: Speech,
    rooms: Rooms,
    presence: bool,
    writer: Writer,
    /// Upgrades accepted.
    opened: u64,
    /// `welcome` frames.
    welcomed: u64,
    /// `room_joined` frames.
    joined: u64,
    tally: Tally,
}

impl Members {
    fn new(speech: Speech, presence: bool) -> Members {
        let (rooms, writer, tally) = (Rooms::new(), Writer::default(), Tally::default());
        Members { speech, rooms, presence, writer, opened: 0, welcomed: 0, joined: 0, tally }
    }

    /// Takes note of an event. On an upgrade it opens the session and joins `rooms`, with seq 1, 2, ….
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: &Event<'_>, rooms: impl Iterator<Item = u32>) {
        self.tally.note(event);
        match event {
            Event::Open => {
                self.opened += 1;
                if self.speech == Speech::Raw {
                    return;
                }
                if self.speech == Speech::Throng(Dialect::V1) {
                    outbox.send_text(connection, self.writer.connect());
                }
                for (index, room) in rooms.enumerate() {
                    let join = self.writer.join(&self.rooms.name(room), index as u64 + 1, self.presence);
                    outbox.send_text(connection, join);
                }
            }
            Event::Text(text) => match kind_of(text) {
                Kind::Welcome => self.welcomed += 1,
                Kind::RoomJoined => self.joined += 1,
                Kind::Broadcast | Kind::Ack | Kind::Error | Kind::Pong | Kind::Gap | Kind::Other => {}
            },
            Event::Binary(_) | Event::Ping | Event::Refused { .. } | Event::Closed(_) => {}
        }
    }

    /// Whether `connections` are open and members of `rooms_each` rooms, as far as this server tells.
    fn are_complete(&self, connections: u32, rooms_each: u32) -> bool {
        let connections = u64::from(connections);
        let joined = match self.speech {
            Speech::Raw => true,
            Speech::Throng(dialect) => {
                let welcomed = dialect == Dialect::Plain || self.welcomed >= connections;
                welcomed && self.joined >= connections * u64::from(rooms_each)
            }
        };
        self.opened >= connections && joined
    }

    fn incomplete(&self, connections: u32) -> String {
        format!(
            "of {connections} connections {} were opened and {} rooms joined within {} s: {}",
            self.opened,
            self.joined,
            OPEN_DEADLINE / SECOND,
            self.tally.summary()
        )
    }
}

/// What the server has spent and counted at a moment.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    at: Nanos,
    server_cpu_ns: Option<u64>,
    client_cpu_ns: Option<u64>,
    metrics: Option<Metrics>,
}

impl Snapshot {
    fn take(common: &Common, now: Nanos) -> Result<Snapshot, String> {
        // The clocks before the metrics, so that the scrape of an end is not in its measure.
        let server_cpu_ns = common.pid.map(|pid| Process::new(pid).map(Process::cpu_ns)).transpose()?.flatten();
        let client_cpu_ns = Process::own().cpu_ns();
        let metrics = common.admin.as_ref().map(Metrics::fetch).transpose()?;
        Ok(Snapshot { at: now, server_cpu_ns, client_cpu_ns, metrics })
    }

    /// As [`Snapshot::take`], for the beginning: the metrics first.
    fn begin(common: &Common, now: Nanos) -> Result<Snapshot, String> {
        let metrics = common.admin.as_ref().map(Metrics::fetch).transpose()?;
        let unmeasured = Common { admin: None, ..common.clone() };
        Ok(Snapshot { metrics, ..Snapshot::take(&unmeasured, now)? })
    }

    /// Adds what `count` of something has cost since `earlier`.
    fn report_costs(&self, earlier: &Snapshot, what: &str, count: u64, report: &mut Report) {
        let per = |later: Option<u64>, earlier: Option<u64>| {
            let spent = later?.checked_sub(earlier?)?;
            (count > 0).then(|| rounded(spent as f64 / count as f64))
        };
        report.optional(&format!("server_cpu_ns_per_{what}"), per(self.server_cpu_ns, earlier.server_cpu_ns), "ns");
        report.optional(&format!("client_cpu_ns_per_{what}"), per(self.client_cpu_ns, earlier.client_cpu_ns), "ns");
        let enters = self.counted(earlier, "throng_syscalls_total").filter(|_| count > 0).map(|enters| enters / count as f64);
        report.optional(&format!("io_uring_enter_per_{what}"), enters.map(|enters| (enters * 1e5).round() / 1e5), "");
    }

    /// By how much a counter has grown since `earlier`.
    fn counted(&self, earlier: &Snapshot, name: &str) -> Option<f64> {
        Some(self.metrics.as_ref()?.sum(name)? - earlier.metrics.as_ref()?.sum(name)?)
    }
}
