//! Verify that the house is in order: import rules, unsafe, clocks, file heads and lengths, unwraps, the top level, and the README.
//!
//! Each rule is a function from texts to complaints, so that a planted violation can prove that it complains. Rules read code with its
//! comments and literals blanked out; they know nothing of types, so they are about words, not meanings.

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/readme.rs"]
mod readme;
#[path = "tidy/rules.rs"]
mod rules;

use code::File;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project.
fn rust_files() -> Vec<File> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz/fuzz_targets"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 10, "only {} files were found: the walk is broken", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> =
        folder.read_dir().expect("it is a folder").map(|entry| entry.expect("it can be read").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("it is below the root").to_string_lossy().into_owned();
            files.push(File::new(&name, &std::fs::read_to_string(&path).expect("source is UTF-8")));
        }
    }
}

/// Applies a rule to every Rust file and fails with all complaints.
fn keep(rule: impl Fn(&File) -> Vec<String>) {
    let complaints: Vec<String> = rust_files().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Verifies that a rule complains of one planted text and not of the other.
fn can_fail(rule: impl Fn(&File) -> Vec<String>, name: &str, bad: &str, good: &str) {
    assert_eq!(rule(&File::new(name, bad)).len(), 1, "one complaint was due about {bad:?}: {:?}", rule(&File::new(name, bad)));
    assert_eq!(rule(&File::new(name, good)), Vec::<String>::new(), "no complaint was due about {good:?}");
}

#[test]
fn imports_go_downward_only() {
    keep(rules::imports);
}

#[test]
fn every_module_has_its_place_in_the_import_rules() {
    let modules =
        rust_files().iter().filter_map(|file| file.module()).filter(|module| module != "main" && module != "lib").collect();
    assert_eq!(rules::modules_without_a_rule(modules), Vec::<String>::new());
}

#[test]
fn the_import_rule_can_fail() {
    can_fail(rules::imports, "src/ws/mask.rs", "use crate::shard::Shard;", "use crate::limits::WINDOW;");
    can_fail(rules::imports, "src/shard/room.rs", "fn f() { crate::driver::clock::now() }", "// crate::driver::clock");
    can_fail(rules::imports, "src/shard/mod.rs", "use crate::{limits, uring::Ring};", "use crate::{limits::{A, B}, ws};");
    can_fail(rules::imports, "src/shard/a/b.rs", "use super::super::super::control::X;", "use super::super::room::X;");
    can_fail(rules::imports, "src/control/mod.rs", "pub(crate) use crate :: uring :: Ring;", "use crate::shard::Stats;");
    can_fail(rules::imports, "src/close.rs", "use super::ws::Frame;", "const S: &str = \"crate::ws\";");
    can_fail(rules::imports, "src/protocol/mod.rs", "use crate::*;", "#[cfg(test)]\nmod tests { use crate::shard::Shard; }");
    assert_eq!(rules::modules_without_a_rule(vec!["ws".into(), "attic".into()]), ["attic"]);
}

#[test]
fn unsafe_is_only_in_uring() {
    keep(rules::unsafe_code);
}

#[test]
fn the_unsafe_rule_can_fail() {
    can_fail(rules::unsafe_code, "src/driver/mod.rs", "fn f() { unsafe { g() } }", "#![forbid(unsafe_code)] // unsafe");
    can_fail(rules::unsafe_code, "tests/echo.rs", "unsafe impl Send for X {}", "let s = \"unsafe\";");
    can_fail(rules::unsafe_code, "src/ws/mod.rs", "#[unsafe(no_mangle)] fn f() {}", "let s = r#\"unsafe\"#;");
    assert!(rules::unsafe_code(&File::new("src/uring/ring.rs", "unsafe { enter() }")).is_empty());
}

#[test]
fn every_file_opens_with_what_it_decides() {
    keep(rules::opening);
}

#[test]
fn the_opening_rule_can_fail() {
    can_fail(rules::opening, "src/ws/mod.rs", "use std::fmt;\n//! late", "//! What it decides.\n");
    can_fail(rules::opening, "src/ws/mod.rs", "//!\n", "//! x");
    can_fail(rules::opening, "src/ws/mod.rs", "", "//! x");
}

#[test]
fn no_file_is_too_long() {
    for file in rust_files().iter().filter(|file| file.lines() > rules::LINES_WISHED) {
        eprintln!("{}: {} lines: look for a seam", file.name, file.lines());
    }
    keep(rules::length);
}

#[test]
fn the_length_rule_can_fail() {
    can_fail(rules::length, "src/a.rs", &"\n".repeat(801), &"\n".repeat(800));
}

#[test]
fn clocks_are_read_in_one_place() {
    keep(rules::clocks);
}

#[test]
fn the_clock_rule_can_fail() {
    can_fail(rules::clocks, "src/driver/mod.rs", "let t = Instant::now();", "/// [`Instant::now`]\nlet t = clock.now();");
    can_fail(rules::clocks, "src/shard/mod.rs", "std::time::SystemTime :: now()", "let s = \"SystemTime::now\";");
    can_fail(rules::clocks, "tests/echo.rs", "start.elapsed()", "deadline.left()");
    assert!(rules::clocks(&File::new("src/driver/clock.rs", "Instant::now()")).is_empty());
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    keep(rules::unwraps);
}

#[test]
fn the_unwrap_rule_can_fail() {
    can_fail(rules::unwraps, "src/a.rs", "x.unwrap();", "x.unwrap_or(1); x.expect(\"it was checked\");");
    can_fail(rules::unwraps, "src/a.rs", "x\n    .unwrap ()", "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }");
}

#[test]
fn nothing_is_left_unfinished() {
    keep(rules::unfinished);
}

#[test]
fn the_unfinished_rule_can_fail() {
    can_fail(rules::unfinished, "src/a.rs", "todo!()", "let todo = 1;");
    can_fail(rules::unfinished, "src/a.rs", "unimplemented!(\"later\")", "x");
    can_fail(rules::unfinished, "tests/a.rs", "#[ignore]\nfn f() {}", "fn ignore() {}");
    can_fail(rules::unfinished, "src/a.rs", &format!("// {}: later", concat!("TO", "DO")), "// done");
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let entries = root().read_dir().expect("it is a folder").map(|entry| entry.expect("it can be read").file_name());
    let names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(rules::strangers(&names), Vec::<String>::new());
}

#[test]
fn the_top_level_rule_can_fail() {
    assert_eq!(rules::strangers(&["src".into(), "notes.txt".into(), "Cargo.toml".into()]), ["notes.txt"]);
}

#[test]
fn no_text_names_the_machine_it_was_written_on() {
    keep(rules::machine);
    let mut complaints = Vec::new();
    for name in ["Cargo.toml", "README.md", "clippy.toml", "deny.toml", "tests/run", ".ci/run"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap_or_default();
        complaints.extend(rules::machine(&File::new(name, &text)));
    }
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn the_machine_rule_can_fail() {
    let path = concat!("/", "root/x");
    can_fail(rules::machine, "src/a.rs", &format!("// {path}"), "// /root is fine alone, /proc/self as well");
}

#[test]
fn the_readme_names_only_what_exists() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("there is a README.md");
    assert!(!readme::commands(&text).is_empty(), "the README shows no command");
    let exists = |path: &str| root().join(path).exists();
    assert_eq!(readme::missing_paths(&text, exists), Vec::<String>::new());
    assert_eq!(readme::unknown_cargo(&text), Vec::<String>::new());
}

/// Every `throng` command that the README shows is asked for its help, which has to know each flag.
#[cfg(feature = "server")]
#[test]
fn the_readmes_flags_are_known_to_the_binary() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("there is a README.md");
    assert_eq!(readme::unknown_flags(&text, help_of_the_binary), Vec::<String>::new());
}

#[cfg(feature = "server")]
fn help_of_the_binary(subcommand: &str) -> Option<String> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_throng"));
    let output = command.args(subcommand.split(' ')).arg("--help").output().expect("the binary can be started");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_readme_rules_can_fail() {
    let text = "Run `tests/run`, read [it](docs/missing.md).\n```sh\ncargo run --release -- serve --port 1 --listen x\n./target/release/throng fly\ncargo rnu\n```\n";
    let exists = |path: &str| path == "tests/run";
    assert_eq!(readme::missing_paths(text, exists), ["docs/missing.md"]);
    assert_eq!(readme::unknown_cargo(text), ["cargo rnu"]);
    let help = |subcommand: &str| (subcommand == "serve").then(|| "  --listen <ADDRESS>".to_owned());
    assert_eq!(readme::unknown_flags(text, help), ["throng serve --port", "throng fly"]);
}
