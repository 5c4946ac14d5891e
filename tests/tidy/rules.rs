//! The rules on Rust files. Each takes a file and returns its complaints.

use super::code::File;

/// Lines of a file. Above it is split.
const LINES_MAX: usize = 800;
/// Lines from which a file is listed, so that somebody looks for a seam.
pub(crate) const LINES_WISHED: usize = 500;

/// What each top module may import of ours. Imports go downward only.
const IMPORTS: [(&str, &[&str]); 16] = [
    ("limits", &["close", "time"]),
    ("close", &["limits", "time"]),
    ("time", &["limits", "close"]),
    ("planted", &[]),
    ("ws", &["limits", "close", "time"]),
    ("protocol", &["limits", "close", "time", "planted"]),
    ("tls", &["limits", "close", "time"]),
    ("shard", &["ws", "protocol", "web", "limits", "close", "time", "planted"]),
    // Tests of the core that a fuzzer drives.
    ("fuzzing", &["driver", "shard", "tls", "ws", "protocol", "limits", "close", "time", "planted"]),
    ("client", &["ws", "protocol", "limits", "close", "time", "planted"]),
    ("uring", &["limits", "close", "time"]),
    // Joins core, TLS and ring, and never looks inside a message.
    ("driver", &["shard", "tls", "uring", "limits", "close", "time"]),
    // Reaches a shard only by its mailbox, which the driver owns.
    ("control", &["driver", "shard", "tls", "doctor", "web", "limits", "close", "time"]),
    // A load generator: a client on the same ring, which knows nothing of the server's decisions.
    ("capacity", &["client", "ws", "protocol", "uring", "limits", "close", "time"]),
    ("doctor", &["uring", "limits", "close", "time"]),
    ("web", &["limits", "close", "time"]),
];

/// Files that read a clock: the driver's, that of the client's transport, that of the load generator, and that of the tests.
const CLOCKS: [&str; 4] =
    ["src/driver/clock.rs", "src/client/transport/clock.rs", "src/capacity/clock.rs", "tests/support/deadline.rs"];

/// What stands at the top level.
const TOP_LEVEL: [&str; 21] = [
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "build.rs",
    "clippy.toml",
    "deny.toml",
    "fuzz",
    "node_modules",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
    "tuning",
    ".github",
];

/// Imports that go upward or sideways.
pub(crate) fn imports(file: &File) -> Vec<String> {
    let Some(module) = file.module() else { return Vec::new() };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else { return Vec::new() };
    let code = file.code_without_tests();
    let mut complaints = Vec::new();
    for (at, used) in paths_from_the_root(code, file.depth()) {
        if used != module && !allowed.contains(&used.as_str()) {
            complaints.push(file.complaint(at, &format!("{module} must not import {used}")));
        }
    }
    complaints
}

/// Modules that [`IMPORTS`] does not know.
pub(crate) fn modules_without_a_rule(mut modules: Vec<String>) -> Vec<String> {
    modules.sort();
    modules.dedup();
    modules.retain(|module| IMPORTS.iter().all(|(name, _)| name != module));
    modules
}

/// The top modules that paths name, through `crate::` or through enough `super::`.
fn paths_from_the_root(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in File::words(code, "crate") {
        if let Some(rest) = after_colons(&code[at + "crate".len()..]) {
            names_at(rest).into_iter().for_each(|name| found.push((at, name)));
        }
    }
    for at in File::words(code, "super") {
        // Only the first of a chain begins a path.
        if code[..at].trim_end().ends_with("super::") {
            continue;
        }
        let (mut rest, mut steps) = (&code[at..], 0);
        while let Some(next) = rest.strip_prefix("super").and_then(after_colons) {
            (rest, steps) = (next, steps + 1);
        }
        if steps >= depth {
            names_at(rest).into_iter().for_each(|name| found.push((at, name)));
        }
    }
    found
}

/// What follows `::`.
fn after_colons(text: &str) -> Option<&str> {
    Some(text.trim_start().strip_prefix("::")?.trim_start())
}

/// The first names of a path: one, or those of a `{a::x, b::{c, d}}`. `*` stands for everything, which is always too much.
fn names_at(text: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '*').collect::<String>();
    let Some(list) = text.strip_prefix('{') else { return vec![name(text)] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, c) in list.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                names.push(name(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names.retain(|name| name != "self");
    names
}

/// `unsafe` outside `src/uring`.
pub(crate) fn unsafe_code(file: &File) -> Vec<String> {
    if file.name.starts_with("src/uring/") {
        return Vec::new();
    }
    File::words(&file.code, "unsafe").map(|at| file.complaint(at, "unsafe is only in src/uring")).collect()
}

/// A file that doesn't open by saying what it decides.
pub(crate) fn opening(file: &File) -> Vec<String> {
    let first = file.text.lines().next().unwrap_or("");
    let says = first.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty());
    if says { Vec::new() } else { vec![file.complaint(0, "a file opens with `//!` and what it decides")] }
}

/// A file that is too long.
pub(crate) fn length(file: &File) -> Vec<String> {
    let lines = file.lines();
    if lines <= LINES_MAX { Vec::new() } else { vec![format!("{}: {lines} lines, above {LINES_MAX}", file.name)] }
}

/// A clock read where none belongs.
pub(crate) fn clocks(file: &File) -> Vec<String> {
    if CLOCKS.contains(&file.name.as_str()) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for clock in ["Instant", "SystemTime"] {
        let places = File::words(&file.code, clock);
        let reads = places.filter(|at| after_colons(&file.code[at + clock.len()..]).is_some_and(|rest| rest.starts_with("now")));
        complaints.extend(reads.map(|at| file.complaint(at, "the clock is read in one place only")));
    }
    for at in File::words(&file.code, "elapsed").filter(|at| file.code[..*at].trim_end().ends_with('.')) {
        complaints.push(file.complaint(at, "`elapsed` reads the clock"));
    }
    complaints
}

/// `unwrap()` in what isn't a test.
pub(crate) fn unwraps(file: &File) -> Vec<String> {
    // Modules of tests, by their name or folder; clippy knows them by their `cfg`.
    let is_test = file.name.ends_with("tests.rs") || file.name.contains("/tests/");
    if !file.name.starts_with("src/") || is_test {
        return Vec::new();
    }
    let code = file.code_without_tests();
    let called = |at: &usize| code[at + "unwrap".len()..].trim_start().starts_with('(') && code[..*at].trim_end().ends_with('.');
    let places = File::words(code, "unwrap").filter(called);
    places.map(|at| file.complaint(at, "say with `expect` why it can't fail")).collect()
}

/// Marks of work that isn't done.
pub(crate) fn unfinished(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    for word in ["todo", "unimplemented"] {
        let places = File::words(&file.code, word).filter(|at| file.code[at + word.len()..].starts_with('!'));
        complaints.extend(places.map(|at| file.complaint(at, "not finished")));
    }
    complaints.extend(file.code.match_indices("#[ignore").map(|(at, _)| file.complaint(at, "a test runs or goes")));
    for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")] {
        complaints.extend(file.text.match_indices(word).map(|(at, _)| file.complaint(at, "not finished")));
    }
    complaints
}

/// Entries of the top level that don't belong there.
pub(crate) fn strangers(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| !TOP_LEVEL.contains(&name.as_str())).cloned().collect()
}

/// Paths of the machine that a text was written on.
pub(crate) fn machine(file: &File) -> Vec<String> {
    let paths = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];
    let places = paths.iter().flat_map(|path| file.text.match_indices(path)).map(|(at, _)| at);
    // `$X/root/…` and the like are somebody's own path.
    let alone = places.filter(|at| !file.text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '}' || c == '.'));
    alone.map(|at| file.complaint(at, "a path of one machine")).collect()
}
