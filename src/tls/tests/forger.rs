//! A forger that has shaken hands: with the secrets of rustls' client.

use super::super::keys::{Keys, Secret};
use super::*;
use std::sync::Mutex;

pub(super) use super::super::double::{Answer, Forger};

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(String, Vec<u8>)>>);

impl rustls::KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().expect("nobody has panicked").push((label.to_owned(), secret.to_vec()));
    }
}

impl Forger {
    pub(super) fn key_update(&mut self, request: u8) -> Vec<u8> {
        let record = self.seal(22, &[24, 0, 0, 1, request], 0);
        self.advance();
        record
    }

    /// Shakes hands with a server as a client that keeps to the rules.
    pub(super) fn open(suite: CipherSuite, config: &Config) -> (Forger, Server) {
        let log = Arc::new(Log::default());
        let mut client_config = tls13(suite, NamedGroup::X25519);
        client_config.key_log = log.clone();
        let (_, server) = open(&client_config, config);
        let logged = log.0.lock().expect("nobody has panicked");
        let secret = |wanted: &str| {
            let (_, secret) = logged.iter().find(|(label, _)| label == wanted).expect("it was told");
            Secret::new(secret).expect("it is as long as a hash")
        };
        let (server_secret, client_secret) = (secret("SERVER_TRAFFIC_SECRET_0"), secret("CLIENT_TRAFFIC_SECRET_0"));
        let keys = Keys::new(suite, &server_secret, &client_secret).expect("it is a suite of ours");
        // The ticket was the first record.
        (Forger::new(keys, 1), server)
    }
}
