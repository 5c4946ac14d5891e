//! What the README promises: commands, flags and files that must exist.

/// The commands shown in fenced blocks of a shell, without prompt and comment.
pub(crate) fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut shell = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            shell = match shell {
                None => Some(matches!(language.trim(), "sh" | "bash" | "console" | "shell")),
                Some(_) => None,
            };
        } else if shell == Some(true) {
            let line = line.trim().trim_start_matches("$ ");
            let line = line.split(" #").next().unwrap_or("").trim();
            if !line.is_empty() && !line.starts_with('#') {
                commands.push(line.to_owned());
            }
        }
    }
    commands
}

/// Files that the text names, by link or as code, and that don't exist.
pub(crate) fn missing_paths(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let links = links.filter(|link| !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:"));
    let links = links.map(|link| link.split('#').next().unwrap_or("").to_owned());
    let spans = text.split('`').skip(1).step_by(2).map(|span| span.split(' ').next().unwrap_or("").to_owned());
    let ours = ["tests/", ".ci/", "tuning/", "src/", "benches/", "docs/"];
    let spans = spans.filter(|span| ours.iter().any(|folder| span.starts_with(folder)) && !span.contains(['*', '…', '<']));
    let shown = commands(text).into_iter().filter_map(|command| command.split(' ').next().map(str::to_owned));
    let shown = shown.filter(|word| ours.iter().any(|folder| word.starts_with(folder)));
    let mut missing: Vec<String> = links.chain(spans).chain(shown).filter(|path| !exists(path)).collect();
    missing.sort();
    missing.dedup();
    missing
}

/// `cargo` commands that cargo doesn't have.
pub(crate) fn unknown_cargo(text: &str) -> Vec<String> {
    const KNOWN: [&str; 9] = ["run", "build", "test", "bench", "install", "doc", "clippy", "fmt", "add"];
    let commands = commands(text).into_iter().filter(|command| command.starts_with("cargo "));
    commands.filter(|command| !command.split_whitespace().nth(1).is_some_and(|word| KNOWN.contains(&word))).collect()
}

/// Subcommands and flags of `throng` that its help doesn't know. `help` is asked with a subcommand.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "without the binary there is no help to ask"))]
pub(crate) fn unknown_flags(text: &str, help: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut unknown = Vec::new();
    for command in commands(text) {
        let Some(arguments) = arguments_of_throng(&command) else { continue };
        // Without a subcommand it serves.
        let words: Vec<&str> = arguments.iter().take_while(|word| !word.starts_with('-')).map(String::as_str).collect();
        let subcommand = if words.is_empty() { "serve".to_owned() } else { words.join(" ") };
        let Some(help) = help(&subcommand) else {
            unknown.push(format!("throng {subcommand}"));
            continue;
        };
        for flag in arguments.iter().filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap_or("");
            let known = help.split(|c: char| c.is_whitespace() || "=,[]<>".contains(c)).any(|word| word == flag);
            if !known && flag != "--help" {
                unknown.push(format!("throng {subcommand} {flag}"));
            }
        }
    }
    unknown
}

/// What a command passes to `throng`, however it starts it.
fn arguments_of_throng(command: &str) -> Option<Vec<String>> {
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if command.starts_with("cargo run") {
        let after = words.iter().position(|word| word == "--").map_or(words.len(), |at| at + 1);
        return Some(words[after..].to_vec());
    }
    let at = words.iter().position(|word| word == "throng" || word.ends_with("/throng"))?;
    Some(words[at + 1..].to_vec())
}
