//! What the paths of the admin listener answer whose answer changes: `/`, `/metrics`, `/healthz`, `/readyz`.

use super::http::{Method, Request, Response, Status};
use super::{Admin, Phase};
use crate::close::CloseReason;
use crate::control::config::units::human_size;
use crate::control::data_plane::Snapshot;
use crate::control::metrics;
use crate::shard::Stats;
use crate::shard::stats::Refusal;
use std::fmt::Write;

const NOT_FOUND: &str = "not found; there are /, /demo, /throng.js, /throng.d.ts, /metrics, /healthz and /readyz";

/// Answers a request.
pub(super) fn answer(admin: &Admin, request: &Request) -> Response {
    let page: fn(&Admin) -> Response = match request.path.as_str() {
        "/" => overview,
        "/metrics" => scrape,
        "/healthz" => health,
        "/readyz" => readiness,
        _ => return Response::text(Status::NotFound, NOT_FOUND),
    };
    match request.method {
        Method::Get | Method::Head => page(admin),
        Method::Other => Response::text(Status::MethodNotAllowed, "only GET and HEAD are answered"),
    }
}

fn scrape(admin: &Admin) -> Response {
    let body = admin.exporter.render(&admin.plane.snapshots(), admin.state.phase() == Phase::Ready);
    Response::new(Status::Ok, "text/plain; version=0.0.4; charset=utf-8", &body)
}

/// The process answers; and while it runs all its shards do.
fn health(_: &Admin) -> Response {
    Response::text(Status::Ok, "ok")
}

fn readiness(admin: &Admin) -> Response {
    match admin.state.phase() {
        Phase::Ready => Response::text(Status::Ok, "ready"),
        Phase::Starting => Response::text(Status::Unavailable, "starting"),
        Phase::Draining => Response::text(Status::Unavailable, "draining"),
    }
}

/// The numbers that an operator wants first. Holds nothing that a client chose, so there is nothing to escape.
fn overview(admin: &Admin) -> Response {
    let snapshots = admin.plane.snapshots();
    let sum = |value: fn(&Stats) -> u64| snapshots.iter().map(|snapshot| value(&snapshot.shard)).sum::<u64>();
    let memory = &admin.constants.memory;
    let lag = |share| match metrics::lag_quantile_ms(&snapshots, share) {
        None => "-".to_owned(),
        Some(ms) if ms.is_finite() => format!("≤ {ms} ms"),
        Some(_) => "> 1000 ms".to_owned(),
    };
    let mut body = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\"><title>throng</title>\
         <style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color-scheme:light dark}td,th{padding:.1rem 1.5rem .1rem 0;\
         text-align:left;font-weight:normal;font-variant-numeric:tabular-nums}th{opacity:.7}</style>",
    );
    let _ = write!(
        body,
        "<h1>throng {}</h1><p>{} on {}, up {} s. <a href=\"/demo\">demo</a> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/healthz\">healthz</a> · <a href=\"/readyz\">readyz</a></p><table>",
        env!("CARGO_PKG_VERSION"),
        admin.state.phase().word(),
        admin.listen,
        admin.plane.now().since(admin.started) / 1_000
    );
    let mut row = |name: &str, value: String| {
        let _ = write!(body, "<tr><th>{name}<td>{value}");
    };
    row("connections", format!("{} of {}", sum(|stats| stats.connections_active), memory.connections_max));
    row("connections since start", sum(|stats| stats.connections_total).to_string());
    row("abnormal closes", sum(|stats| stats.abnormal_closes).to_string());
    row("rooms, of these idle", format!("{}, {}", sum(|stats| stats.rooms_home), sum(|stats| stats.rooms_idle)));
    row("memberships", sum(|stats| stats.room_subscriptions).to_string());
    row(
        "orphaned memberships, leave failures",
        format!("{}, {}", sum(|stats| stats.orphaned_subscriptions), sum(|stats| stats.room_leave_failures)),
    );
    row("publications, deliveries", format!("{}, {}", sum(|stats| stats.publications), sum(|stats| stats.deliveries)));
    row("waiting for slow sockets", human_size(sum(|stats| stats.send_queue_bytes)));
    row("flexible memory", format!("{} of {}", human_size(sum(Stats::memory_bytes_held)), human_size(memory.flex_bytes as u64)));
    let resident = metrics::resident_bytes().map_or("-".to_owned(), human_size);
    row("resident memory", format!("{resident}, at most {}", human_size(memory.total_bytes() as u64)));
    row("event loop lag, half and 99 % of turns since start", format!("{}, {}", lag(0.5), lag(0.99)));
    row("shards", admin.constants.shards.to_string());
    body.push_str("</table>");
    reasons(&mut body, "closes", CloseReason::ALL.iter().map(|reason| reason.label()), &snapshots, |stats| &stats.closes);
    reasons(&mut body, "refusals", Refusal::ALL.iter().map(|reason| reason.label()), &snapshots, |stats| &stats.refusals);
    body.push('\n');
    Response::new(Status::Ok, "text/html; charset=utf-8", &body)
}

fn reasons(
    body: &mut String,
    title: &str,
    labels: impl Iterator<Item = &'static str>,
    snapshots: &[Snapshot],
    counts: fn(&Stats) -> &[u64],
) {
    let mut rows = String::new();
    for (index, label) in labels.enumerate() {
        let count: u64 = snapshots.iter().filter_map(|snapshot| counts(&snapshot.shard).get(index)).sum();
        if count > 0 {
            let _ = write!(rows, "<tr><th>{label}<td>{count}");
        }
    }
    if !rows.is_empty() {
        let _ = write!(body, "<h2>{title}</h2><table>{rows}</table>");
    }
}
