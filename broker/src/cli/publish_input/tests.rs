//! Lines, JSON lines, keys and line numbers.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn rules(shape: Shape, key: Key) -> Rules {
    Rules {
        shape,
        key,
        headers: Vec::new(),
        partition: None,
        asked: Asked::default(),
        dedup: Dedup::None,
    }
}

fn maker(rules: Rules) -> (Maker, mpsc::Receiver<anyhow::Result<Vec<Numbered>>>) {
    let (chunks, received) = mpsc::channel(1000);
    let locations = match &rules.key {
        Key::Matched(expression) => Some(expression.capture_locations()),
        _ => None,
    };
    let keyless = Arc::default();
    (
        Maker {
            rules,
            locations,
            keyless,
            line: 0,
            chunk: Vec::new(),
            chunk_bytes: 0,
            chunks,
        },
        received,
    )
}

fn lines(
    maker: &mut Maker,
    received: &mut mpsc::Receiver<anyhow::Result<Vec<Numbered>>>,
) -> Vec<(u64, Message)> {
    maker.hand_over().ok().unwrap();
    let mut found = Vec::new();
    while let Ok(chunk) = received.try_recv() {
        found.extend(chunk.unwrap().into_iter().map(|it| (it.line, it.message)));
    }
    found
}

/// Gives bytes in pieces of a given length.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

#[test]
fn lines_survive_any_cut() {
    let input = b"one\n\nthree is longer\nlast without newline";
    for piece in 1..=input.len() {
        let (mut maker, mut received) = maker(rules(Shape::Value, Key::None));
        assert!(maker.stream(Pieces(input, piece)).is_ok());
        let found = lines(&mut maker, &mut received);
        let expected: Vec<_> = [
            &b"one"[..],
            b"",
            b"three is longer",
            b"last without newline",
        ]
        .into_iter()
        .map(|line| Message::new(Bytes::copy_from_slice(line)))
        .zip(1..)
        .map(|(message, line)| (line, message))
        .collect();
        assert_eq!(found, expected, "pieces of {piece}");
    }
}

#[test]
fn keys_are_the_first_group() {
    let key = Key::Matched(Regex::new(r"^(\S+) ").unwrap());
    let (mut maker, mut received) = maker(rules(Shape::Value, key));
    maker
        .lines(Bytes::from_static(b"10.0.0.1 GET /\nnothing\n\xff\xfe x\n"))
        .ok()
        .unwrap();
    let found = lines(&mut maker, &mut received);
    let with = |value: &'static [u8], key: &'static [u8]| Message::new(value).key(key);
    assert_eq!(found[0].1, with(b"10.0.0.1 GET /", b"10.0.0.1"));
    assert_eq!(found[1].1, Message::new("nothing"));
    assert_eq!(maker.keyless.load(Ordering::Relaxed), 2);
}

#[test]
fn values_repeat_with_growing_numbers() {
    let (mut maker, mut received) = maker(rules(Shape::Value, Key::Fixed("k".into())));
    maker
        .repeat_values(&["a".into(), "b".into()], 2)
        .ok()
        .unwrap();
    let numbers: Vec<_> = lines(&mut maker, &mut received)
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn a_bad_line_ends_the_input_behind_the_good_ones() {
    let (mut maker, mut received) = maker(rules(Shape::Json, Key::None));
    let input = Bytes::from_static(b"{\"value\":\"a\"}\n  \n{\"value\":\"b\"}\nnonsense\n");
    let Err(Stop::Bad(error)) = maker.lines(input) else {
        panic!("the line is bad")
    };
    assert!(format!("{error:#}").contains("line 4"), "{error:#}");
    let numbers: Vec<_> = lines(&mut maker, &mut received)
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(numbers, [1, 3]);
}
