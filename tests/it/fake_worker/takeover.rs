//! Answers WebSocket handshakes in place of a WSGI application that speaks the protocol itself, on
//! the socket that comes with the request. The path after `/takeover/` selects the behaviour. Then
//! the fake worker closes the socket and responds `Hello, world!`, which the daemon sends only if
//! nothing was written to the socket.
//!
//! | path | behaviour |
//! |---|---|
//! | `echo` | 101, then echoes every byte |
//! | `together` | 101 and a text frame `hi` in one write |
//! | `drip` | like `together`, but in single bytes |
//! | `die` | 101, then the process exits with 3 when the first bytes arrive |
//! | `mid-frame` | 101, a text frame `hi` and the beginning of a frame, then nothing until the client closes |
//! | `flood` | 101, then binary frames until writing fails; then the first byte of the file that the query names |
//! | `refuse` | 403 `no` |
//! | `endless` | 200, then bytes without an end |
//! | `noise` | bytes that are not HTTP |
//! | `silent` | nothing |

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rgun_channel::frame::Request;

use crate::requests::Exchange;
use crate::{Outcome, quit};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Own: yes\r\n\r\n";

/// A text frame `hi`.
const HI: &[u8] = b"\x81\x02hi";

impl Exchange<'_, '_> {
    pub(crate) fn take_over(&mut self, request: &Request<'_>, what: &str) -> Outcome {
        let mut socket = UnixStream::from(self.slot.worker.body(request.exchange)?);
        // Errors of the connection are not errors of the fake worker.
        drop(speak(&mut socket, what, &String::from_utf8_lossy(request.query)));
        drop(socket);
        self.text(200, "Hello, world!")
    }
}

fn speak(socket: &mut UnixStream, what: &str, query: &str) -> Outcome {
    let mut buffer = vec![0; 64 * 1024];
    match what {
        "echo" => {
            socket.write_all(SWITCH)?;
            loop {
                match socket.read(&mut buffer)? {
                    0 => return Ok(()),
                    len => socket.write_all(&buffer[..len])?,
                }
            }
        }
        "together" => socket.write_all(&[SWITCH, HI].concat())?,
        "drip" => {
            for byte in [SWITCH, HI].concat() {
                socket.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        "die" => {
            socket.write_all(SWITCH)?;
            socket.read_exact(&mut buffer[..1])?;
            quit(3, "exits during a takeover, as the path requests");
        }
        "mid-frame" => {
            socket.write_all(&[SWITCH, HI, b"\x82\x7e\xff\xffbegun"].concat())?;
            while socket.read(&mut buffer)? > 0 {}
        }
        "flood" => {
            socket.write_all(SWITCH)?;
            let frame = [&b"\x82\x7f"[..], &(buffer.len() as u64).to_be_bytes(), &buffer].concat();
            while socket.write_all(&frame).is_ok() {}
            fs::write(query, "x")?;
        }
        "refuse" => socket.write_all(b"HTTP/1.1 403 No\r\nX-Own: yes\r\nContent-Length: 2\r\n\r\nno")?,
        "endless" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                socket.write_all(&buffer)?;
            }
        }
        "noise" => socket.write_all(b"\x00\x01\x02\r\n\r\n")?,
        _ => {}
    }
    Ok(())
}
