//! Scenarios over real sockets, against servers that tungstenite plays.

use super::args::{BenchArgs, Scenario};
use super::report::Report;
use super::scenario::{echo, fanout, storm};
use crate::ws::Opcode;
use crate::ws::frame::header;
use clap::{CommandFactory, FromArgMatches, Parser};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tungstenite::Message;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn parse(line: &str) -> Scenario {
    let matches = Cli::command().get_matches_from(line.split(' '));
    Cli::from_arg_matches(&matches).unwrap().bench.scenario
}

/// Serves every connection to `serve`, each on a thread, until the process ends. Returns the URL.
fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    url
}

/// Sends messages back as `answer` makes them.
fn echo_server(answer: impl Fn(Message) -> Message + Clone + Send + 'static) -> String {
    server(move |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        while let Ok(message) = socket.read() {
            if message.is_text() && socket.send(answer(message)).is_err() {
                return;
            }
        }
        let _ = socket.flush();
    })
}

fn run_echo(line: &str) -> Report {
    let Scenario::Echo(args) = parse(line) else { panic!("{line}") };
    echo::run(&args).unwrap()
}

#[test]
fn echo_agrees_with_a_server_that_sends_back_what_came() {
    let url = echo_server(|message| message);
    for rest in ["--connections 5 --depth 3 --bytes 3000", "--connections 6 --threads 2 --bytes 64"] {
        let report = run_echo(&format!("bench echo --url {url} --duration 100ms {rest}"));
        assert_eq!(report.print(true), ExitCode::SUCCESS);
    }
}

#[test]
fn echo_notices_a_server_that_changes_a_byte() {
    let url = echo_server(|message| {
        let text = message.into_text().unwrap();
        Message::text(format!("{}!", &text[..text.len() - 1]))
    });
    let report = run_echo(&format!("bench echo --url {url} --connections 2 --duration 50ms"));
    assert_eq!(report.print(true), ExitCode::FAILURE);
}

#[test]
fn fanout_agrees_with_a_server_that_sends_each_message_to_all_others() {
    let members: Arc<Mutex<Vec<(u16, TcpStream)>>> = Arc::default();
    let url = server(move |stream| {
        let own = stream.peer_addr().unwrap().port();
        let writer = stream.try_clone().unwrap();
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        members.lock().unwrap().push((own, writer));
        while let Ok(message) = socket.read() {
            if !message.is_text() {
                continue;
            }
            let payload = message.into_data();
            let frame = [header(Opcode::Text, payload.len()).as_bytes(), &payload].concat();
            for (_, member) in members.lock().unwrap().iter_mut().filter(|(port, _)| *port != own) {
                let _ = member.write_all(&frame);
            }
        }
        members.lock().unwrap().retain(|(port, _)| *port != own);
    });
    for in_flight in ["1", "4"] {
        let line = format!("bench fanout --url {url} --peer-raw --connections 7 --in-flight {in_flight} --duration 100ms");
        let Scenario::Fanout(args) = parse(&line) else { panic!("{line}") };
        assert_eq!(fanout::run(&args).unwrap().print(true), ExitCode::SUCCESS);
    }
}

#[test]
fn a_storm_counts_refusals_and_tries_again_until_all_are_open() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let url = server(move |mut stream| {
        if accepted.fetch_add(1, Ordering::SeqCst) < 7 {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        #[expect(clippy::result_large_err, reason = "the type of tungstenite's callback")]
        let choose = |_: &tungstenite::handshake::server::Request, mut response: tungstenite::handshake::server::Response| {
            response.headers_mut().insert("sec-websocket-protocol", "throng.v1".parse().unwrap());
            Ok(response)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream, choose) else { return };
        while socket.read().is_ok() {}
        let _ = socket.flush();
    });
    let Scenario::Storm(args) = parse(&format!("bench storm --url {url} --connections 10 --base 20ms --duration 30s")) else {
        panic!()
    };
    let report = storm::run(&args).unwrap();
    assert_eq!(report.print(true), ExitCode::SUCCESS);
}
