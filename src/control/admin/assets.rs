//! The files that the admin listener serves: the browser client, its types, and the demonstration.
//!
//! All are part of the program and prepared once, at start. It decides their bytes, their types, who may load them and how long they may
//! be kept; it does not know what they do, nor how they reach a socket.

use super::http::{Method, Request, Response, Status};
use crate::web;
use std::net::SocketAddr;
use std::rc::Rc;

const DEMO: &str = include_str!("demo/demo.html");
const DEMO_SCRIPT: &str = include_str!("demo/demo.js");
const DEMO_STYLE: &str = include_str!("demo/demo.css");
/// What stands in the page for the address that its script connects to.
const LISTEN_PLACE: &str = "{{listen}}";

/// Kept, but asked for each time.
const CACHE_DEMO: &str = "no-cache";

/// One file, as it is answered to who has no copy and to who has this one.
struct Asset {
    path: &'static str,
    etag: String,
    whole: Rc<Response>,
    unchanged: Rc<Response>,
}

/// All files.
pub(super) struct Assets(Vec<Asset>);

impl Assets {
    /// For a server whose clients connect to `listen`.
    pub(super) fn new(listen: SocketAddr) -> Assets {
        let client = |content_type, body: &str| Response {
            cache_control: web::CACHE_CONTROL,
            more: format!("Access-Control-Allow-Origin: {}\r\n", web::ALLOW_ORIGIN),
            ..Response::new(Status::Ok, content_type, body)
        };
        let policy = demo_policy(listen);
        let demo = |content_type, body: &str| Response {
            cache_control: CACHE_DEMO,
            policy: policy.clone().into(),
            ..Response::new(Status::Ok, content_type, body)
        };
        Assets(vec![
            Asset::new(web::PATH, client(web::CONTENT_TYPE, &web::client().text)),
            Asset::new("/throng.d.ts", client("text/plain; charset=utf-8", web::TYPES)),
            Asset::new("/demo", demo("text/html; charset=utf-8", &DEMO.replace(LISTEN_PLACE, &listen_for_pages(listen)))),
            Asset::new("/demo.js", demo(web::CONTENT_TYPE, DEMO_SCRIPT)),
            Asset::new("/demo.css", demo("text/css; charset=utf-8", DEMO_STYLE)),
        ])
    }

    /// The answer to a request, if its path is that of a file.
    pub(super) fn answer(&self, request: &Request) -> Option<Rc<Response>> {
        let asset = self.0.iter().find(|asset| asset.path == request.path)?;
        Some(match request.method {
            Method::Other => Rc::new(Response::text(Status::MethodNotAllowed, "only GET and HEAD are answered")),
            Method::Get | Method::Head if web::names(&request.if_none_match, &asset.etag) => Rc::clone(&asset.unchanged),
            Method::Get | Method::Head => Rc::clone(&asset.whole),
        })
    }
}

impl Asset {
    fn new(path: &'static str, mut response: Response) -> Asset {
        let etag = web::etag_of(&response.body);
        response.more = format!("ETag: {etag}\r\n{}", response.more);
        let unchanged = Response { status: Status::NotModified, ..response.clone() };
        Asset { path, etag, whole: Rc::new(response), unchanged: Rc::new(unchanged) }
    }
}

/// What a page connects to: an address, or only the port where the server listens on all of them. Then the page takes the host that it
/// was loaded from.
fn listen_for_pages(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!(":{}", listen.port()) } else { listen.to_string() }
}

fn demo_policy(listen: SocketAddr) -> String {
    let host = if listen.ip().is_unspecified() { format!("*:{}", listen.port()) } else { listen.to_string() };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src ws://{host} wss://{host}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> SocketAddr {
        "10.0.0.5:9000".parse().unwrap()
    }

    fn request(path: &str, if_none_match: &str) -> Request {
        Request { method: Method::Get, path: path.into(), keep_alive: true, if_none_match: if_none_match.into() }
    }

    #[test]
    fn who_has_the_file_is_told_so_and_who_has_another_gets_it() {
        let assets = Assets::new(listen());
        let etag = &assets.0[0].etag;
        for (list, status) in [
            (String::new(), Status::Ok),
            ("\"0\"".into(), Status::Ok),
            (etag.clone(), Status::NotModified),
            (format!("\"0\", W/{etag}"), Status::NotModified),
            ("*".into(), Status::NotModified),
            (etag.trim_matches('"').to_owned(), Status::Ok),
        ] {
            assert_eq!(assets.answer(&request("/throng.js", &list)).unwrap().status, status, "{list}");
        }
        let mut etags: Vec<_> = assets.0.iter().map(|asset| asset.etag.clone()).collect();
        etags.sort();
        etags.dedup();
        assert_eq!(etags.len(), assets.0.len(), "each file has a tag of its own");
    }

    #[test]
    fn a_page_is_told_the_address_that_the_server_has_and_may_connect_to_no_other() {
        for (listen, told, policy) in [
            ("10.0.0.5:9000", "\"10.0.0.5:9000\"", "connect-src ws://10.0.0.5:9000 wss://10.0.0.5:9000;"),
            ("0.0.0.0:9100", "\":9100\"", "connect-src ws://*:9100 wss://*:9100;"),
            ("[::]:9100", "\":9100\"", "connect-src ws://*:9100 wss://*:9100;"),
            ("[::1]:9", "\"[::1]:9\"", "connect-src ws://[::1]:9 wss://[::1]:9;"),
        ] {
            let page = Assets::new(listen.parse().unwrap()).answer(&request("/demo", "")).unwrap();
            assert!(page.body.contains(told) && page.policy.contains(policy), "{listen}");
            assert!(!page.body.contains(LISTEN_PLACE));
        }
    }
}
