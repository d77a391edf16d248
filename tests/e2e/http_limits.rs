//! What a client may do to the HTTP port, and what it may not: sizes, slowness, floods.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use aqueduct_tests::{http::Http, process::PATIENCE};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::{fixture::Fixture, http::started};

/// Resident memory of the broker, MiB.
fn memory(http: &mut Http) -> u64 {
    let stats = http.get("/v1/stats").ok();
    let bytes: u64 = stats["rssBytes"].as_str().unwrap().parse().unwrap();
    bytes >> 20
}

/// Writes until it is stopped or done; true if all was taken.
fn pour(http: &mut Http, piece: &[u8], times: usize) -> bool {
    (0..times).all(|_| http.socket().write_all(piece).is_ok())
}

#[test]
fn a_body_of_100_mb_is_refused_early() {
    let (mut broker, mut http) = started();
    let address = broker.process.address();
    let mut announced = Http::connect(address);
    let head = "POST /v1/topics/a:publish HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n";
    announced.socket().write_all(head.as_bytes()).unwrap();
    // Not a byte of it has been sent.
    let refused = announced
        .answer(false)
        .unwrap()
        .refused(413, "REQUEST_TOO_LARGE");
    assert_eq!(
        refused["details"][0]["metadata"]["limit"],
        (20 << 20).to_string()
    );
    for path in ["/v1/topics/a:publish", "/v1/topics/a/messages", "/health"] {
        let mut chunked = Http::connect(address);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        chunked.socket().write_all(head.as_bytes()).unwrap();
        let piece = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
        let all = pour(&mut chunked, &piece, 1_600);
        assert!(!all, "{path}: 100 MB were taken");
    }
    let used = memory(&mut http);
    assert!(used < 300, "{used} MiB");
    broker.assert_serves();
}

#[test]
fn a_slow_body_does_not_stay() {
    let (mut broker, _http) = started();
    let mut slow = Http::connect(broker.process.address());
    let head = "POST /v1/topics/a:publish HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    slow.socket().write_all(head.as_bytes()).unwrap();
    let mut writer = slow.socket().try_clone().unwrap();
    // A byte now and then keeps nothing open.
    let dribbling = std::thread::spawn(move || {
        let start = std::time::Instant::now();
        while writer.write_all(b" ").is_ok() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    slow.answer(false).unwrap().refused(408, "BODY_TOO_SLOW");
    drop(slow);
    broker.assert_serves();
    dribbling.join().unwrap();
}

#[test]
fn header_bombs_are_refused() {
    let (mut broker, mut http) = started();
    let long = format!(
        "GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET /health HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    let path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(1 << 20));
    let endless = format!(
        "GET /health HTTP/1.1\r\nhost: a\r\nx: {}",
        "x".repeat(64 << 20)
    );
    for bomb in [long, many, path, endless] {
        let mut bad = Http::connect(broker.process.address());
        let _ = bad.socket().write_all(bomb.as_bytes());
        // An answer of the 400s or a hang-up, nothing else.
        if let Ok(answer) = bad.answer(false) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    let fine: Vec<(String, String)> = (0..50)
        .map(|n| (format!("x-{n}"), "y".repeat(100)))
        .collect();
    let fine: Vec<(&str, &str)> = fine.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(http.send("GET", "/health", &fine, b"").status, 200);
    assert!(memory(&mut http) < 300);
    broker.assert_serves();
}

#[test]
fn json_that_would_swell_is_refused() {
    let (mut broker, mut http) = started();
    let wide = format!("{{\"messages\":[{}{{}}]}}", "{},".repeat(5_000_000));
    let kind = [("content-type", "application/json")];
    http.send("POST", "/v1/topics/a:publish", &kind, wide.as_bytes())
        .names("body");
    let many = json!({ "messages": vec![json!({}); 100_001] });
    let answer = http.post("/v1/topics/a:publish", &many);
    assert!(answer.status == 400 || answer.status == 404, "{answer:?}");
    let used = memory(&mut http);
    assert!(used < 400, "{used} MiB");
    broker.assert_serves();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GET http://a/ in HPACK.
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

fn h2(broker: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(broker.process.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Reads on the side, so that nothing stands in the way of writing.
fn drained(stream: &TcpStream) -> std::thread::JoinHandle<usize> {
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut all, mut piece) = (0, [0; 4_096]);
        while let Ok(read @ 1..) = reader.read(&mut piece) {
            all += read;
        }
        all
    })
}

#[test]
fn rapid_resets_end_the_connection() {
    let (mut broker, mut http) = started();
    let mut stream = h2(&broker);
    let reading = drained(&stream);
    let mut ended = false;
    for n in 0..200_000_u32 {
        let id = n * 2 + 1;
        let mut pair = frame(1, 0x4 | 0x1, id, &GET);
        pair.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
        if stream.write_all(&pair).is_err() {
            ended = true;
            break;
        }
    }
    assert!(ended, "200,000 requests were opened and reset");
    reading.join().unwrap();
    assert!(memory(&mut http) < 200);
    broker.assert_serves();
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let (mut broker, mut http) = started();
    let mut stream = h2(&broker);
    let reading = drained(&stream);
    stream.write_all(&frame(1, 0, 1, &GET)).unwrap();
    // Literal headers without indexing, again and again, and never the last frame.
    let mut block = Vec::new();
    while block.len() < 16_000 {
        block.extend([0x00, 0x01, b'x', 0x7f, 0x00]);
        block.extend([b'y'; 127]);
    }
    let continuation = frame(9, 0, 1, &block);
    let ended = (0..20_000).any(|_| stream.write_all(&continuation).is_err());
    assert!(ended, "320 MB of continuations were taken");
    reading.join().unwrap();
    assert!(memory(&mut http) < 200);
    broker.assert_serves();
}

#[test]
fn five_thousand_idle_connections_disturb_nobody() {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < 6_000) {
        eprintln!(
            "skipped: no more than {:?} files may be open",
            limit.maximum
        );
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let (mut broker, mut http) = started();
    let before = memory(&mut http);
    let mut idle = Vec::new();
    for _ in 0..5_000 {
        let mut one = Http::connect(broker.process.address());
        one.socket()
            .write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        idle.push(one);
    }
    let mut answered = 0;
    for one in &mut idle {
        answered += usize::from(one.answer(false).is_ok_and(|answer| answer.status == 200));
    }
    assert_eq!(answered, 5_000);
    let mut http = Http::connect(broker.process.address());
    let _ = http.post("/v1/topics", &json!({ "name": "orders" })).ok();
    for n in 0..20 {
        let stored = http
            .send("POST", "/v1/topics/orders/messages", &[], b"x")
            .ok();
        assert_eq!(stored["offset"], n.to_string());
    }
    let used = memory(&mut http);
    assert!(used < before + 300, "{before} MiB became {used} MiB");
    broker.assert_serves();
    drop(idle);
}
