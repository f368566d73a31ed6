//! The daemon's side: reads calls, passes them to the main loop, and writes the replies.
//!
//! Each client has a task of its own. A client that does not read its reply delays no other, and
//! is disconnected after [`WRITE_TIMEOUT`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::fault::CallFault;
use super::interfaces;
use super::message::{CallMessage, ReplyMessage, encode};
use super::method::{Access, CallTarget, Method, resolve};

/// Time for a client to send its first or next call.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Time for a client to read a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length of a call in bytes; much longer than any valid one.
const MAX_CALL_BYTES: usize = 16 * 1024;

/// Maximum number of clients with [`Access::Full`] at the same time.
const MAX_FULL_CLIENTS: usize = 32;

/// Maximum number of clients with [`Access::Read`] at the same time.
const MAX_READING_CLIENTS: usize = 32;

/// Maximum number of clients without access at the same time. Each gets one error.
const MAX_REFUSED_CLIENTS: usize = 4;

/// A call for the main loop.
#[derive(Debug)]
pub struct Call {
    /// The method and its parameters. The client's access suffices for the method.
    pub method: Method,
    /// Takes the replies. Dropping the sender before the last reply closes the connection.
    pub replies: ReplySender,
}

/// A reply, on its way to the client's task.
#[derive(Debug)]
enum Reply {
    /// More replies follow. Not sent to a client that called without the flag `more`.
    Progress(Value),
    /// The last reply.
    Done(Value),
    /// The last reply: an error.
    Failed(CallFault),
}

/// Sends replies to one client. If the client has left, they are dropped.
#[derive(Debug)]
pub struct ReplySender(UnboundedSender<Reply>);

impl ReplySender {
    /// Sends a reply that is not the last one.
    pub fn progress(&self, parameters: &impl Serialize) {
        self.send(to_reply(parameters, Reply::Progress));
    }

    /// Sends the last reply.
    pub fn finish(self, parameters: &impl Serialize) {
        self.send(to_reply(parameters, Reply::Done));
    }

    /// Sends an error, the last reply.
    pub fn fail(self, fault: CallFault) {
        self.send(Reply::Failed(fault));
    }

    /// Sends each item in a reply of its own. `items` must not be empty: the call would get no reply.
    pub fn finish_all<T: Serialize>(self, items: &[T]) {
        if let Some((last, others)) = items.split_last() {
            for item in others {
                self.progress(item);
            }
            self.finish(last);
        }
    }

    fn send(&self, reply: Reply) {
        // Fails only if the client has left.
        drop(self.0.send(reply));
    }
}

fn to_reply(parameters: &impl Serialize, reply: fn(Value) -> Reply) -> Reply {
    let parameters = serde_json::to_value(parameters);
    reply(parameters.expect("replies are structs with fields that JSON has"))
}

/// Accepts clients and serves them; never returns. `authorize` returns the access of a process that
/// has connected, or the reason why the process has none. `call` passes a call to the main loop.
pub async fn serve(
    listener: UnixListener,
    authorize: impl Fn(&io::Result<UCred>) -> Result<Access, String>,
    call: impl Fn(Call) + Clone + Send + 'static,
) {
    let slots = [MAX_FULL_CLIENTS, MAX_READING_CLIENTS, MAX_REFUSED_CLIENTS]
        .map(|n_clients| Arc::new(Semaphore::new(n_clients)));
    let [full, reading, refused] = slots;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept, trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let access = authorize(&stream.peer_cred());
        let slots = match &access {
            Ok(Access::Full) => &full,
            Ok(Access::Read) => &reading,
            Err(_) => &refused,
        };
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            tracing::debug!("the control socket has too many clients, closing a new connection");
            continue;
        };
        let client = ClientTask { stream, access, call: call.clone() };
        tokio::spawn(async move {
            if let Err(error) = client.run().await {
                tracing::debug!(%error, "disconnecting a client of the control socket");
            }
            drop(slot);
        });
    }
}

/// The connection to one client.
struct ClientTask<F> {
    stream: UnixStream,
    /// The client's access, or the reason why the client has none.
    access: Result<Access, String>,
    call: F,
}

impl<F: Fn(Call)> ClientTask<F> {
    /// Serves one call after the other, until the client leaves.
    async fn run(mut self) -> io::Result<()> {
        let mut received = Vec::new();
        while let Some(message) =
            timeout(CALL_TIMEOUT, next_message(&mut self.stream, &mut received)).await??
        {
            let call: CallMessage = serde_json::from_slice(&message)?;
            self.serve_call(&call).await?;
            if self.access.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn serve_call(&mut self, call: &CallMessage) -> io::Result<()> {
        let wants_more = call.more.unwrap_or_default();
        let method = match self.permitted(call) {
            Ok(CallTarget::Info) => return self.reply(call, Reply::Done(interfaces::info())).await,
            Ok(CallTarget::Description(name)) => {
                let definition = interfaces::definition(&name);
                let reply = definition.map(|text| Reply::Done(json!({ "description": text })));
                return self.reply(call, reply.unwrap_or_else(Reply::Failed)).await;
            }
            Ok(CallTarget::Main(method)) if method.requires_more() && !wants_more => {
                return self.reply(call, Reply::Failed(CallFault::ExpectedMore {})).await;
            }
            Ok(CallTarget::Main(method)) => method,
            Err(fault) => return self.reply(call, Reply::Failed(fault)).await,
        };
        let (replies_tx, replies) = unbounded_channel();
        (self.call)(Call { method, replies: ReplySender(replies_tx) });
        self.forward(call, replies).await
    }

    /// Writes the replies of the main loop, up to the last one.
    async fn forward(&mut self, call: &CallMessage, mut replies: UnboundedReceiver<Reply>) -> io::Result<()> {
        if call.oneway.unwrap_or_default() {
            return Ok(());
        }
        while let Some(reply) = replies.recv().await {
            let is_last = !matches!(reply, Reply::Progress(_));
            self.reply(call, reply).await?;
            if is_last {
                return Ok(());
            }
        }
        Err(io::Error::other("the daemon is stopping"))
    }

    /// Returns the method of a call if the client may call it.
    fn permitted(&self, call: &CallMessage) -> Result<CallTarget, CallFault> {
        let access = self.access.clone().map_err(|reason| CallFault::PermissionDenied { reason })?;
        let target = resolve(call)?;
        match &target {
            CallTarget::Main(method) if method.access() > access => Err(CallFault::PermissionDenied {
                reason: format!("{} is only for root and the service's user", call.method),
            }),
            _ => Ok(target),
        }
    }

    async fn reply(&mut self, call: &CallMessage, reply: Reply) -> io::Result<()> {
        let wants_more = call.more.unwrap_or_default();
        if call.oneway.unwrap_or_default() || matches!(reply, Reply::Progress(_)) && !wants_more {
            return Ok(());
        }
        let bytes = match reply {
            Reply::Failed(fault) => encode(&fault)?,
            Reply::Progress(parameters) => encode(&success(parameters, true))?,
            Reply::Done(parameters) => encode(&success(parameters, false))?,
        };
        timeout(WRITE_TIMEOUT, self.stream.write_all(&bytes)).await?
    }
}

fn success(parameters: Value, continues: bool) -> ReplyMessage {
    let parameters = match parameters {
        Value::Object(parameters) => Some(parameters),
        _ => None,
    };
    ReplyMessage { error: None, parameters, continues: continues.then_some(true) }
}

/// Returns the next message; `None` at the end of the stream. `received` keeps bytes that follow the
/// message until the next call.
///
/// # Errors
/// The message is longer than [`MAX_CALL_BYTES`], or cannot be read.
async fn next_message(stream: &mut UnixStream, received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = received.iter().position(|byte| *byte == 0) {
            let rest = received.split_off(end + 1);
            let mut message = std::mem::replace(received, rest);
            message.pop();
            return Ok(Some(message));
        }
        if received.len() > MAX_CALL_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its call is too long"));
        }
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            n_read => received.extend_from_slice(&chunk[..n_read]),
        }
    }
}
