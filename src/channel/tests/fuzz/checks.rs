//! Properties of the decoders and rings that hold for any bytes. The fuzz targets (`targets/`) and
//! the property tests of the normal run (`properties.rs`) share these checks.
//!
//! A violated property causes a panic, in the code under test or in an assertion here.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rgun_channel::control::{Command, Report};
use rgun_channel::frame::{
    AppError, Body, BodyPart, Completion, CompletionKind, FieldName, Fields, Request, Submission, chunks,
    decode_window_update, encode_field, fields,
};
use rgun_channel::layout::{CHUNK_BYTES, Geometry, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionReceiver, CompletionSender, SubmissionReceiver, SubmissionSender};
use rgun_channel::slab::{SlabReceiver, SlabSender};

/// Runs every decoder on the same bytes: none panics, and a value that a decoder accepts is the
/// same after encoding and decoding it again. Returns how many decoders accepted the bytes.
pub(crate) fn frame(bytes: &[u8]) -> usize {
    [
        request(bytes),
        stream_frame(bytes),
        completion(bytes),
        app_error(bytes),
        message(bytes, |bytes| Command::decode(bytes).ok(), Command::encode),
        message(bytes, |bytes| Report::decode(bytes).ok(), Report::encode),
    ]
    .into_iter()
    .filter(|accepted| *accepted)
    .count()
}

/// Returns the fields as pairs of name and value.
fn pairs(fields: Fields<'_>) -> Vec<(&[u8], &[u8])> {
    fields
        .map(|(name, value)| {
            if let FieldName::Known(_) = name {
                assert!(!name.as_bytes().is_empty(), "a known name without text");
            }
            (name.as_bytes(), value)
        })
        .collect()
}

fn request(bytes: &[u8]) -> bool {
    let Ok(first) = Request::decode(bytes) else { return false };
    let first_fields = pairs(first.fields());
    assert_eq!(first_fields.len(), usize::from(first.n_fields));
    let mut again = Vec::new();
    first.encode(first_fields.iter().copied(), &mut again).expect("lengths were u16 before");
    let second = Request::decode(&again).expect("an encoded frame decodes");
    assert_eq!(pairs(second.fields()), first_fields);
    let parts = |request: &Request<'_>| {
        (
            (request.exchange, request.body_len, request.received, request.version, request.body_is_fd),
            (request.https, request.listener, request.peer_port, request.n_fields),
            (request.body_streams, request.websocket, request.server_port),
            [request.method, request.path, request.query, request.peer, request.request_id, request.body]
                .map(<[u8]>::to_vec),
            request.root_path.to_vec(),
        )
    };
    assert_eq!(parts(&first), parts(&second));
    let submission = Submission::decode(bytes);
    assert!(matches!(submission, Ok(Submission::Request(request)) if parts(&request) == parts(&first)));
    true
}

fn stream_frame(bytes: &[u8]) -> bool {
    let Ok(Submission::Stream(first)) = Submission::decode(bytes) else { return false };
    let mut again = Vec::new();
    first.encode(&mut again);
    assert_eq!(Submission::decode(&again), Ok(Submission::Stream(first)));
    true
}

fn completion(bytes: &[u8]) -> bool {
    let Ok(first) = Completion::decode(bytes) else { return false };
    let first_fields = pairs(fields(&bytes[first.fields.clone()], first.n_fields));
    assert_eq!(first_fields.len(), usize::from(first.n_fields));
    let chunk_list;
    let body = match &first.body {
        BodyPart::Inline(range) => Body::Inline(&bytes[range.clone()]),
        BodyPart::Chunks(range) => {
            chunk_list = chunks(&bytes[range.clone()]).collect::<Vec<_>>();
            Body::Chunks(&chunk_list)
        }
        BodyPart::File { offset, len } => Body::File { offset: *offset, len: *len },
    };
    if let (CompletionKind::AppRaised, Body::Inline(error)) = (first.head.kind, body) {
        app_error(error);
    }
    if let (CompletionKind::WindowUpdate, Body::Inline(number)) = (first.head.kind, body) {
        assert_eq!(decode_window_update(number).is_ok(), number.len() == 8);
    }
    let mut again = Vec::new();
    let reason = &bytes[first.reason.clone()];
    let reason_len = u16::try_from(reason.len()).expect("it was a u16 before");
    first.head.encode_with_reason(reason_len, first.n_fields, &body, &mut again);
    again.extend_from_slice(reason);
    for (name, value) in &first_fields {
        encode_field(name, value, &mut again).expect("lengths were u16 before");
    }
    body.encode(&mut again);
    let second = Completion::decode(&again).expect("an encoded frame decodes");
    assert_eq!(second.head, first.head);
    assert_eq!(&again[second.reason.clone()], reason);
    assert_eq!(pairs(fields(&again[second.fields], second.n_fields)), first_fields);
    match (body, second.body) {
        (Body::Inline(bytes), BodyPart::Inline(range)) => assert_eq!(&again[range], bytes),
        (Body::Chunks(pairs), BodyPart::Chunks(range)) => {
            assert_eq!(chunks(&again[range]).collect::<Vec<_>>(), pairs);
        }
        (Body::File { offset, len }, back) => assert_eq!(back, BodyPart::File { offset, len }),
        (body, back) => panic!("{body:?} came back as {back:?}"),
    }
    true
}

fn app_error(bytes: &[u8]) -> bool {
    let Ok(first) = AppError::decode(bytes) else { return false };
    let mut again = Vec::new();
    first.encode(&mut again);
    assert!(bytes.starts_with(&again));
    assert_eq!(AppError::decode(&again), Ok(first));
    true
}

/// Checks a control message. Encoders truncate long texts, so only a short message must survive the
/// first round trip unchanged; a long message must survive the second.
fn message<M: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Option<M>,
    encode: impl Fn(&M) -> Vec<u8>,
) -> bool {
    let Some(first) = decode(bytes) else { return false };
    let again = encode(&first);
    let second = decode(&again).expect("an encoded frame decodes");
    if bytes.len() <= 1024 {
        assert_eq!(second, first);
    }
    assert_eq!(encode(&second), again);
    true
}

/// A small map, so that few hostile words reach every edge of it.
const GEOMETRY: Geometry = Geometry { submission: 4096, completion: 4096, chunks: 2, slots: 1 };

/// Maximum number of records in 4096 bytes.
const RECORDS: usize = 4096 / 8;

/// Overwrites the control words and rings of a map with the bytes, anew before each step. Checks
/// that no end of a ring panics (an access outside the map would), loops forever, or copies a byte
/// from outside its ring into a frame. Returns how many frames were accepted.
pub(crate) fn rings(bytes: &[u8]) -> usize {
    thread_local! {
        static MAP: RefCell<Option<Arc<Map>>> = const { RefCell::new(None) };
    }
    let map = MAP.with_borrow_mut(|map| {
        Arc::clone(map.get_or_insert_with(|| {
            Arc::new(Map::create("fuzz", GEOMETRY.total_bytes()).expect("a map can be created").0)
        }))
    });
    let first = attack(&map, bytes, 0x00);
    let second = attack(&map, bytes, 0xff);
    assert_eq!(first, second, "bytes outside the rings affect the frames");
    first.len()
}

/// Runs the instructions in `bytes` once, with all bytes outside rings and words set to `outside`.
/// Returns all frames.
fn attack(map: &Arc<Map>, bytes: &[u8], outside: u8) -> Vec<Vec<u8>> {
    map.copy_in(0, &vec![outside; GEOMETRY.slab_offset() + 64]);
    for ring in [GEOMETRY.submission_offset(), GEOMETRY.completion_offset()] {
        map.copy_in(ring, &[0; 4096]);
    }
    map.copy_in(GEOMETRY.free_offset(), &[0; 8]);
    for word in WORDS {
        map.u64(Geometry::word(word)).store(0, Ordering::Relaxed);
    }
    let mut completions = CompletionReceiver::new(Arc::clone(map), &GEOMETRY);
    let mut submissions = SubmissionReceiver::new(Arc::clone(map), &GEOMETRY);
    let mut submit = SubmissionSender::new(Arc::clone(map), &GEOMETRY);
    let mut complete = CompletionSender::new(Arc::clone(map), &GEOMETRY);
    let mut slab_sender = SlabSender::new(Arc::clone(map), &GEOMETRY);
    let slab_receiver = SlabReceiver::new(Arc::clone(map), &GEOMETRY);
    let mut held = Vec::new();
    let mut positions = Vec::new();
    let mut frames = Vec::new();

    let mut input = Input(bytes);
    while !input.0.is_empty() {
        input.write_words(map);
        input.write_ring(map, GEOMETRY.submission_offset());
        input.write_ring(map, GEOMETRY.completion_offset());
        map.u32(GEOMETRY.free_offset()).store(u32::from(input.byte()), Ordering::Relaxed);

        let mut frame = Vec::new();
        for turn in 0.. {
            assert!(turn <= RECORDS, "the completion ring loops forever");
            frame.clear();
            match completions.pop(&mut frame) {
                Ok(Some(len)) => assert_eq!(len, frame.len()),
                Ok(None) => break,
                Err(_) => {
                    assert!(frame.is_empty(), "a refused record was copied");
                    break;
                }
            }
            assert!(frame.len() <= 4096 - 8);
            if let Ok(completion) = Completion::decode(&frame)
                && let BodyPart::Chunks(range) = completion.body
            {
                held.extend(
                    chunks(&frame[range]).filter_map(|(chunk, len)| slab_receiver.receive(chunk, len).ok()),
                );
            }
            frames.push(frame.clone());
        }
        for turn in 0.. {
            assert!(turn <= RECORDS, "the submission ring loops forever");
            match submissions.claim(&mut frame) {
                Ok(true) => frames.push(frame.clone()),
                Ok(false) | Err(_) => break,
            }
        }
        let len = usize::from(input.byte()) * 8;
        if let Ok(Some(position)) = submit.push(&vec![1; len.min(GEOMETRY.max_submission_frame())]) {
            positions.push(position);
        }
        let _room = complete.push(&vec![2; len.min(GEOMETRY.max_completion_frame())]);
        for position in &positions {
            submit.is_claimed(*position);
            submit.revoke(*position);
        }
        if let Ok(available) = slab_sender.n_available() {
            assert!(available <= GEOMETRY.chunks as usize);
        }
        let _chunk = slab_sender.fill(b"x");
        held.extend(slab_receiver.receive(u32::from(input.byte() & 3), u32::from(input.byte()) << 9).ok());
        let n_lent = held.iter().filter(|chunk| chunk.is_lent()).count();
        assert!(n_lent <= GEOMETRY.chunks as usize, "more chunks lent than there are");
        for chunk in &held {
            assert!(chunk.bytes().len() <= CHUNK_BYTES);
        }
        match input.byte() & 3 {
            0 => slab_receiver.reclaim_overdue(),
            1 => held.clear(),
            _ => {}
        }
    }
    frames
}

const WORDS: [Word; 9] = [
    Word::SubmissionHead,
    Word::SubmissionTail,
    Word::CompletionHead,
    Word::CompletionTail,
    Word::Asleep,
    Word::Tokens,
    Word::SpaceWait,
    Word::FreeHead,
    Word::FreeTail,
];

/// Reads instructions from the fuzzer's bytes; zeroes after their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// Overwrites three of the nine words. Multiples of 24 are aligned and exceed the capacity; the
    /// others are extreme.
    fn write_words(&mut self, map: &Map) {
        for _ in 0..3 {
            let word = WORDS[usize::from(self.byte()) % WORDS.len()];
            let value = match self.byte() {
                small @ 0..=0xdf => u64::from(small) * 24,
                extreme @ 0xe0..=0xfe => u64::MAX - u64::from(extreme & 7),
                0xff => u64::from_le_bytes([(); 8].map(|()| self.byte())),
            };
            map.u64(Geometry::word(word)).store(value, Ordering::Relaxed);
        }
    }

    /// Overwrites up to 63 bytes of a ring.
    fn write_ring(&mut self, map: &Map, ring: usize) {
        let (at, len) = (usize::from(self.byte()) * 8, usize::from(self.byte() & 63));
        let bytes: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        map.copy_in(ring + at, &bytes);
    }
}
