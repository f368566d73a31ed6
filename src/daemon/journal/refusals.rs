//! Limits the entries about refused requests, and about errors of the application without an access
//! log. A scanner or an overload causes thousands; one entry for each would use up the journal's rate
//! limit (journald's default: 10,000 entries of a unit in 30 s).
//!
//! For each kind, status and client address there is at most one entry a second; further requests
//! are counted in the next entry, which is written within a second. In total there are at most
//! [`MAX_ENTRIES`] a second; beyond that, requests are counted by kind and status alone. An entry has
//! the ids of up to [`MAX_IDS`] counted requests. Errors of the application have limits of their own,
//! so that a scanner does not hide them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::escape::RequestPath;
use crate::id::WorkerId;

use super::refusal_kind::RefusalKind;
use super::trace_ids::TraceIds;

/// A request that the daemon refused or that the application answered with an error, or a connection
/// that the daemon closed without a response.
#[derive(Debug, Clone)]
pub struct RefusalRecord {
    /// The response; `None` for a connection that got none.
    pub response: Option<RefusalResponse>,
    /// The client's address; of a connection without a response, that of the peer. Empty on a unix
    /// socket.
    pub client: String,
    /// The kind; requests of one kind, status and client are counted together.
    pub kind: RefusalKind,
    /// A sentence for the operator.
    pub detail: String,
}

/// The response to a refused request.
#[derive(Debug, Clone)]
pub struct RefusalResponse {
    /// The request id.
    pub id: String,
    /// The status code.
    pub status: u16,
}

impl RefusalRecord {
    fn category(&self) -> Category {
        (self.kind, self.response.as_ref().map(|response| response.status))
    }
}

/// Method and path of a refused request, if its head was valid.
#[derive(Debug, Clone)]
pub(super) struct RefusedRequest {
    /// The request method, as sent.
    pub(super) method: String,
    /// The path.
    pub(super) path: RequestPath,
    /// The `X-Request-ID` that the client sent, if it did not become the request's id.
    pub(super) client_request_id: Option<String>,
    /// The ids of the request's trace, if it has one.
    pub(super) trace: Option<Box<TraceIds>>,
    /// The worker that has answered the request; `None` if the request reached no worker.
    pub(super) worker: Option<WorkerId>,
}

/// Time in which there is one entry for each kind, status and client.
const WINDOW_TIME: Duration = Duration::from_secs(1);

/// Maximum number of entries per [`WINDOW_TIME`] in total. That makes 3,000 in the 30 s of
/// journald's rate limit, for refusals and for errors of the application each.
const MAX_ENTRIES: u32 = 100;

/// Maximum number of windows that are tracked.
const MAX_WINDOWS: usize = 1024;

/// Maximum number of ids of counted requests in an entry.
const MAX_IDS: usize = 32;

/// An entry about one or more refused requests.
#[derive(Debug, Clone)]
pub(super) struct RefusalEntry {
    pub(super) refused: RefusalRecord,
    /// Method and path. `None` if the head was not valid.
    pub(super) request: Option<RefusedRequest>,
    /// Number of further requests that this entry counts.
    pub(super) n_more: u64,
    /// Ids of the counted requests, at most [`MAX_IDS`].
    pub(super) ids: Vec<String>,
    /// The counted requests are from several clients.
    pub(super) from_many_clients: bool,
}

/// The recent refusals. Shared by the edge thread and the journal thread.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    /// By kind, status and client.
    windows: HashMap<(Category, String), Window>,
    /// Requests beyond the limits: their number and the last of them.
    overflow: BTreeMap<Category, CountedRefusals>,
    /// When the first request was added to `overflow`. `None` while `overflow` is empty.
    overflow_since: Option<Instant>,
    /// The time before which no window ends. `None` if there are no windows.
    windows_due: Option<Instant>,
    /// When the count in `entries` started.
    since: Option<Instant>,
    /// Entries written since then.
    entries: u32,
}

/// Kind, and status of the response; the status is `None` if the connection got no response.
type Category = (RefusalKind, Option<u16>);

/// The window of one kind, status and client. An entry opened it at `since`; later requests are counted.
#[derive(Debug)]
struct Window {
    since: Instant,
    counted: Option<CountedRefusals>,
}

#[derive(Debug)]
struct CountedRefusals {
    last: RefusalEntry,
    count: u64,
}

impl Refusals {
    /// Returns the entry to write now. `None` if the request was counted instead.
    pub(super) fn admit(&self, mut entry: RefusalEntry, now: Instant) -> Option<RefusalEntry> {
        let mut state = self.lock();
        let key = (entry.refused.category(), entry.refused.client.clone());
        let RefusalState { windows, .. } = &mut *state;
        if let Some(window) = windows.get_mut(&key) {
            if now.saturating_duration_since(window.since) < WINDOW_TIME {
                count(&mut window.counted, entry);
                return None;
            }
            if let Some(pending) = window.counted.take() {
                entry.n_more = pending.count;
                entry.take_ids(pending.last);
            }
        } else if windows.len() >= MAX_WINDOWS {
            state.overflow(entry, now);
            return None;
        }
        if !state.take_quota(now) {
            state.overflow(entry, now);
            return None;
        }
        state.begin_window(key, now);
        Some(entry)
    }

    /// Returns the entries for windows that have ended.
    pub(super) fn take_due(&self, now: Instant) -> Vec<RefusalEntry> {
        self.collect(now, |since| now.saturating_duration_since(since) >= WINDOW_TIME)
    }

    /// Returns the entries for all counted requests, at shutdown.
    pub(super) fn take_all(&self, now: Instant) -> Vec<RefusalEntry> {
        self.collect(now, |_| true)
    }

    /// Returns when [`Refusals::take_due`] must be called next. `None` if there are no windows and
    /// no overflow.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        state.windows_due.into_iter().chain(state.overflow_since.map(|since| since + WINDOW_TIME)).min()
    }

    fn collect(&self, now: Instant, is_over: impl Fn(Instant) -> bool) -> Vec<RefusalEntry> {
        let mut state = self.lock();
        let over: Vec<_> = state
            .windows
            .iter()
            .filter(|(_, window)| is_over(window.since))
            .map(|(key, _)| key.clone())
            .collect();
        let mut entries = Vec::new();
        for key in over {
            let Some(Window { counted: Some(counted), .. }) = state.windows.remove(&key) else { continue };
            if state.take_quota(now) {
                entries.push(counted.into_entry());
                state.begin_window(key, now);
            } else {
                state.overflow_counted(counted, now);
            }
        }
        state.windows_due = state.windows.values().map(|window| window.since + WINDOW_TIME).min();
        if state.overflow_since.is_some_and(is_over) {
            state.overflow_since = None;
            let overflow = std::mem::take(&mut state.overflow).into_values();
            entries.extend(
                overflow.map(|counted| RefusalEntry { from_many_clients: true, ..counted.into_entry() }),
            );
        }
        entries
    }

    fn lock(&self) -> MutexGuard<'_, RefusalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusalState {
    fn begin_window(&mut self, key: (Category, String), now: Instant) {
        self.windows.insert(key, Window { since: now, counted: None });
        self.windows_due.get_or_insert(now + WINDOW_TIME);
    }

    /// Counts an entry. Returns false if the total limit is reached.
    fn take_quota(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW_TIME) {
            self.since = Some(now);
            self.entries = 0;
        }
        let may_write = self.entries < MAX_ENTRIES;
        self.entries += u32::from(may_write);
        may_write
    }

    fn overflow(&mut self, entry: RefusalEntry, now: Instant) {
        let count = 1 + entry.n_more;
        self.overflow_counted(CountedRefusals { last: entry, count }, now);
    }

    fn overflow_counted(&mut self, counted: CountedRefusals, now: Instant) {
        self.overflow_since.get_or_insert(now);
        let category = counted.last.refused.category();
        let CountedRefusals { mut last, mut count } = counted;
        if let Some(earlier) = self.overflow.remove(&category) {
            count += earlier.count;
            last.take_ids(earlier.last);
        }
        self.overflow.insert(category, CountedRefusals { last, count });
    }
}

impl CountedRefusals {
    fn into_entry(self) -> RefusalEntry {
        RefusalEntry { n_more: self.count - 1, ..self.last }
    }
}

fn count(counted: &mut Option<CountedRefusals>, mut entry: RefusalEntry) {
    let mut count = 1;
    if let Some(earlier) = counted.take() {
        count += earlier.count;
        entry.take_ids(earlier.last);
    }
    *counted = Some(CountedRefusals { last: entry, count });
}

impl RefusalEntry {
    pub(super) fn new(refused: RefusalRecord, request: Option<RefusedRequest>) -> Self {
        Self { refused, request, n_more: 0, ids: Vec::new(), from_many_clients: false }
    }

    /// Adds the ids of `earlier`, an entry that is counted in this entry.
    fn take_ids(&mut self, earlier: Self) {
        let own = std::mem::replace(&mut self.ids, earlier.ids);
        self.ids.extend(own);
        self.ids.extend(earlier.refused.response.map(|response| response.id));
        self.ids.truncate(MAX_IDS);
    }

    /// Returns the subject of the message: `GET /cart 413`, `refused with 400`,
    /// `TLS handshake of 192.0.2.7 failed`, or `closed a connection of 192.0.2.7`.
    pub(super) fn subject(&self) -> String {
        let RefusalRecord { response, client, kind, .. } = &self.refused;
        match (&self.request, response) {
            (Some(RefusedRequest { method, path, .. }), Some(RefusalResponse { status, .. })) => {
                format!("{method} {path} {status}")
            }
            (None, Some(RefusalResponse { status, .. })) => format!("refused with {status}"),
            (_, None) => {
                let of = if client.is_empty() { String::new() } else { format!(" of {client}") };
                match kind {
                    RefusalKind::TlsHandshake => format!("TLS handshake{of} failed"),
                    RefusalKind::FrameFlood => format!("closed an HTTP/2 connection{of}"),
                    _ => format!("closed a connection{of}"),
                }
            }
        }
    }

    /// Returns ` (and 132 more within 1 s)`, or nothing.
    pub(super) fn count_suffix(&self) -> String {
        match (self.n_more, self.from_many_clients) {
            (0, _) => String::new(),
            (more, false) => format!(" (and {more} more within 1 s)"),
            (more, true) => format!(" (and {more} more within 1 s, from several clients)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: RefusalKind, client: &str) -> RefusalEntry {
        let refused = RefusalRecord {
            response: Some(RefusalResponse { id: "id".to_owned(), status: 400 }),
            client: client.to_owned(),
            kind,
            detail: "no".to_owned(),
        };
        RefusalEntry::new(refused, None)
    }

    #[test]
    fn one_entry_a_second_per_kind_and_client() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.next_due(), None);
        for _ in 0..133 {
            let admitted = refusals.admit(entry(RefusalKind::BadRequestLine, "1.2.3.4"), start);
            assert!(admitted.is_none_or(|entry| entry.n_more == 0));
        }
        assert!(refusals.admit(entry(RefusalKind::BadField, "1.2.3.4"), start).is_some());
        assert!(refusals.admit(entry(RefusalKind::BadRequestLine, "1.2.3.5"), start).is_some());
        let next = refusals
            .admit(entry(RefusalKind::BadRequestLine, "1.2.3.4"), start + WINDOW_TIME)
            .expect("the window has passed");
        assert_eq!((next.n_more, next.count_suffix().as_str()), (132, " (and 132 more within 1 s)"));
        assert_eq!(next.ids.len(), MAX_IDS);
    }

    #[test]
    fn subject_of_a_closed_connection_names_its_client() {
        for (kind, client, subject) in [
            (RefusalKind::TlsHandshake, "192.0.2.7", "TLS handshake of 192.0.2.7 failed"),
            (RefusalKind::TlsHandshake, "", "TLS handshake failed"),
            (RefusalKind::FrameFlood, "192.0.2.7", "closed an HTTP/2 connection of 192.0.2.7"),
            (RefusalKind::SlowProxyHeader, "192.0.2.7", "closed a connection of 192.0.2.7"),
            (RefusalKind::UntrustedProxy, "", "closed a connection"),
        ] {
            let mut entry = entry(kind, client);
            entry.refused.response = None;
            assert_eq!(entry.subject(), subject);
        }
    }

    #[test]
    fn statuses_of_one_client_have_their_own_entries() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let error = |status: u16| {
            let mut entry = entry(RefusalKind::ApplicationError, "1.2.3.4");
            entry.refused.response = Some(RefusalResponse { id: "id".to_owned(), status });
            entry
        };
        assert!(refusals.admit(error(500), start).is_some());
        assert!(refusals.admit(error(503), start).is_some());
        assert!(refusals.admit(error(500), start).is_none());
        let due = refusals.take_due(start + WINDOW_TIME);
        assert_eq!(due.iter().map(|entry| entry.refused.category().1).collect::<Vec<_>>(), [Some(500)]);
    }

    #[test]
    fn suppressed_refusals_are_logged_after_a_second() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for _ in 0..4 {
            refusals.admit(entry(RefusalKind::BadRequestLine, "1.2.3.4"), start);
        }
        assert!(refusals.take_due(start).is_empty());
        assert_eq!(refusals.next_due(), Some(start + WINDOW_TIME));
        let due = refusals.take_due(start + WINDOW_TIME);
        assert_eq!(due.iter().map(|entry| (entry.n_more, entry.ids.len())).collect::<Vec<_>>(), [(2, 2)]);
        // The entry started a new window.
        assert!(refusals.admit(entry(RefusalKind::BadRequestLine, "1.2.3.4"), start + WINDOW_TIME).is_none());
        assert_eq!(refusals.take_due(start + 2 * WINDOW_TIME).len(), 1);
        assert!(refusals.take_due(start + 3 * WINDOW_TIME).is_empty());
        assert_eq!(refusals.next_due(), None, "the idle client's window is dropped");
    }

    #[test]
    fn entries_for_many_addresses_are_bounded_and_all_counted() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let (mut entries, mut n_reported) = (0, 0);
        let seconds = 30;
        for second in 0..seconds {
            let now = start + second * WINDOW_TIME;
            for entry in refusals.take_due(now) {
                (entries, n_reported) = (entries + 1, n_reported + 1 + entry.n_more);
            }
            for number in 0..2000 {
                let client = format!("10.{second}.{}.{}", number / 256, number % 256);
                if let Some(entry) = refusals.admit(entry(RefusalKind::BadRequestLine, &client), now) {
                    (entries, n_reported) = (entries + 1, n_reported + 1 + entry.n_more);
                }
            }
        }
        for entry in refusals.take_all(start + seconds * WINDOW_TIME) {
            (entries, n_reported) = (entries + 1, n_reported + 1 + entry.n_more);
        }
        assert_eq!(n_reported, 2000 * u64::from(seconds));
        assert!(entries <= seconds * (MAX_ENTRIES + 1) + 1, "{entries}");
    }

    #[test]
    fn clients_beyond_the_limit_are_counted_by_kind() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for number in 0..2000_u32 {
            let now = start + WINDOW_TIME * (number / MAX_ENTRIES);
            let admitted = refusals.admit(entry(RefusalKind::BadRequestLine, &number.to_string()), now);
            assert_eq!(admitted.is_some(), (number as usize) < MAX_WINDOWS, "{number}");
        }
        assert_eq!(refusals.lock().windows.len(), MAX_WINDOWS);
        let due = refusals.take_all(start + 20 * WINDOW_TIME);
        let [one] = due.as_slice() else { panic!("{due:?}") };
        assert_eq!(one.count_suffix(), " (and 975 more within 1 s, from several clients)");
    }
}
