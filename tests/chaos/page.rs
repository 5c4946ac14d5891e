//! A page in headless Chromium that takes part in the run with the browser client: driven by `tests/web/chaos.mjs`, line by line.

use crate::chaos::judge::{Fate, Heard, Record, Sent};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use tokio::sync::{Mutex as Turn, mpsc};

/// Lines that wait to be read.
const LINES_MAX: usize = 64;

/// See the module.
pub(crate) struct Page {
    author: usize,
    rooms: Vec<usize>,
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    lines: Turn<mpsc::Receiver<String>>,
}

/// The record as the page writes it.
#[derive(Deserialize)]
struct Report {
    sent: Vec<(usize, bool, String)>,
    heard: BTreeMap<usize, Vec<Told>>,
}

/// What it was told.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Message(usize, usize, u64, String),
    Range(u64, u64),
    Gap([u64; 0]),
}

impl Page {
    /// A page that joins these rooms of the server.
    pub(crate) fn start(author: usize, server: SocketAddr, rooms: &[usize]) -> Page {
        let names = rooms.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new("node");
        command.arg("tests/web/chaos.mjs").args([server.to_string(), "chromium".into(), author.to_string(), names]);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node can be started");
        let input = Mutex::new(child.stdin.take().expect("it is piped"));
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Page { author, rooms: rooms.to_vec(), child: Mutex::new(child), input, lines: Turn::new(lines) }
    }

    /// Its rooms.
    pub(crate) fn rooms(&self) -> &[usize] {
        &self.rooms
    }

    /// Tells it what to do next.
    pub(crate) fn tell(&self, order: &str) {
        let mut input = self.input.lock().expect("nobody panics with it");
        writeln!(input, "{order}").expect("the page is there");
    }

    /// Waits for the line that begins with this word; returns the rest of it.
    pub(crate) async fn expect(&self, word: &str) -> String {
        let line = self.lines.lock().await.recv().await.unwrap_or_else(|| panic!("the page ended before {word}"));
        line.strip_prefix(word).unwrap_or_else(|| panic!("the page says {line}, not {word}")).trim_start().to_owned()
    }

    /// Once it is calm: room, author and number of the last that it has published into each room, acknowledged.
    pub(crate) async fn last_numbers(&self) -> Vec<(usize, usize, usize)> {
        let settled = self.expect("settled").await;
        let last: Vec<(usize, usize)> = serde_json::from_str(&settled).expect("the page writes JSON");
        last.into_iter().map(|(room, number)| (room, self.author, number)).collect()
    }

    /// Waits until it has heard these, and ends it; returns its record.
    pub(crate) async fn end(self, last: &[(usize, usize, usize)]) -> Record {
        let owed: Vec<_> = last.iter().filter(|(room, author, _)| *author != self.author && self.rooms.contains(room)).collect();
        self.tell(&format!("report {}", serde_json::to_string(&owed).expect("numbers are JSON")));
        let report: Report = serde_json::from_str(&self.expect("record").await).expect("the page writes JSON");
        let fate = |fate: &str| match fate {
            "acked" => Fate::Acked,
            "refused" => Fate::Refused,
            "unknown" => Fate::Unknown,
            _ => Fate::Open,
        };
        let sent = report.sent.iter().map(|(room, echo, word)| Sent { room: *room, echo: *echo, fate: fate(word) }).collect();
        let heard = |told: Told| match told {
            Told::Message(from, number, offset, session) => Heard::Message { from, number, offset, session },
            Told::Range(from, to) => Heard::Gap { range: Some((from, to)), at: None },
            Told::Gap([]) => Heard::Gap { range: None, at: None },
        };
        let heard = report.heard.into_iter().map(|(room, told)| (room, told.into_iter().map(heard).collect())).collect();
        Record { sent, heard }
    }
}

impl Drop for Page {
    /// Its input ends with it, and so does the browser; it is waited for.
    fn drop(&mut self) {
        self.tell("end");
        if let Ok(child) = self.child.get_mut() {
            let _ = child.wait();
        }
    }
}
