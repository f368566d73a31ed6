//! The parts of a reload outside of the supervisor: reading the configuration again, the probe,
//! going live, the reply.

use super::buffer_limits::BufferLimits;
use super::control_socket::check_group;
use super::messages::{MainMessage, RereadConfig};
use super::operator_text::describe_reload;
use super::system::{self, spool_directory};
use super::{Daemon, generations, probe};
use crate::cli::Invocation;
use crate::config::{Config, ConfigErrors, SettingText, name, pending_changes};
use crate::control::{CallFault, ReloadReply, ReplySender};
use crate::id::{Generation, WorkerId};
use crate::journal::catalog::OperatorEvent;
use crate::journal::daemon_log;
use crate::supervise::{BootFailure, Event};
use crate::tls::LoadedTls;

/// Maximum number of a traceback's lines that `rgun reload` prints. The journal has all lines.
const MAX_TRACEBACK_LINES: usize = 12;

impl Daemon {
    /// Reads the configuration again, and starts a reload. `client` gets the replies; `None` for
    /// SIGHUP.
    pub(super) fn reload(&mut self, client: Option<ReplySender>) -> Vec<Event> {
        if !self.invocation.runs_python() {
            return self.reload_with(self.invocation.reread(), client);
        }
        // Running `gunicorn.conf.py` may take seconds. Meanwhile the main loop must reap workers
        // and ping the watchdog.
        let (invocation, messages) = (self.invocation.clone(), self.messages_tx.clone());
        self.reloads.n_rereads += 1;
        let nr = self.reloads.n_rereads;
        std::thread::spawn(move || {
            let reread = RereadConfig { nr, read: invocation.reread(), client };
            // Fails only when the main loop has ended.
            drop(messages.send(MainMessage::Reread(Box::new(reread))));
        });
        Vec::new()
    }

    /// Starts a reload with a configuration that was read again, unless a reload that was requested
    /// later has started: what this one has read may be older.
    pub(super) fn on_reread(&mut self, reread: RereadConfig) -> Vec<Event> {
        let RereadConfig { nr, read, client } = reread;
        if nr < self.reloads.last_reread {
            tracing::info!("a reload is skipped: a later one has read the configuration already");
            if let Some(client) = client {
                client.fail(CallFault::ReloadFailed { reason: "superseded by a later reload".to_owned() });
            }
            return Vec::new();
        }
        self.reloads.last_reread = nr;
        self.reload_with(read, client)
    }

    /// Starts a reload, if the configuration is valid.
    fn reload_with(
        &mut self,
        read: Result<Invocation, ConfigErrors>,
        client: Option<ReplySender>,
    ) -> Vec<Event> {
        match read {
            Ok(invocation) => {
                let loaded = self.load_tls(&invocation.config).and_then(|tls| {
                    let identity = self.generations.worker_users.find(&invocation.config)?;
                    // Without a socket, the group is not looked up at a start either.
                    if self.control.socket.is_some() {
                        check_group(&invocation)?;
                    }
                    Ok((tls, identity))
                });
                let (tls, identity) = match loaded {
                    Ok(loaded) => loaded,
                    Err(errors) => {
                        self.refuse_settings(client, &errors);
                        return Vec::new();
                    }
                };
                let tls_warnings = tls.as_ref().map_or_else(Vec::new, |tls| tls.warnings.clone());
                for warning in invocation.warnings.iter().chain(&tls_warnings) {
                    tracing::warn!("{warning}");
                }
                let pending = self.warn_pending(&invocation.config);
                self.status.set_rejected_reload(None);
                self.conf_hooks.on_reload();
                self.apply_file_watch(&invocation.config);
                let policy = generations::policy(&invocation.config, &self.host);
                let generation = self.supervisor.next_generation();
                self.generations.add(generation, invocation.config, tls.map(|tls| tls.context), identity);
                self.set_timers();
                if let Some(client) = client {
                    let message = describe_reload(generation, self.supervisor.any_ready());
                    for message in std::iter::once(message).chain(pending).chain(tls_warnings) {
                        client.progress(&ReloadReply { message, generation: generation.0 });
                    }
                    self.reloads.replies.insert(generation, client);
                }
                vec![Event::Reload { policy }]
            }
            Err(errors) => {
                self.refuse_settings(client, &errors);
                Vec::new()
            }
        }
    }

    /// Logs the changes that only a restart applies. Returns the text, if there are such changes.
    fn warn_pending(&self, config: &Config) -> Option<String> {
        let mut pending = pending_changes(&self.invocation.config, config);
        if !daemon_log::can_split_access_log() {
            pending.retain(|change| change.key != name::ACCESS);
        }
        if self.host.is_socket_activated {
            for change in pending.extract_if(.., |change| change.is_address()) {
                if let SettingText::Set(value) = &change.new {
                    system::warn_unused_addresses(&format!("{} = {value}", change.key));
                }
            }
        }
        if self.host.has_metrics_socket {
            for change in pending.extract_if(.., |change| change.is_metrics_address()) {
                if let SettingText::Set(value) = &change.new {
                    system::warn_unused_metrics(value);
                }
            }
        }
        if pending.is_empty() {
            return None;
        }
        let changes: Vec<_> = pending.iter().map(ToString::to_string).collect();
        let text = format!("the reload does not apply {}: {}", changes.join("; "), self.host.restart);
        tracing::warn!(message_id = OperatorEvent::RestartNeeded.id(), "{text}");
        Some(text)
    }

    fn load_tls(&self, config: &Config) -> Result<Option<LoadedTls>, ConfigErrors> {
        generations::load_tls(config, self.generations.live_tls().map(|tls| &**tls))
    }

    /// Refuses a reload whose configuration is wrong.
    fn refuse_settings(&mut self, client: Option<ReplySender>, errors: &ConfigErrors) {
        // The value is omitted, because every user may read STATUS=, and a misplaced secret could
        // be in it.
        let summary = errors.summary();
        tracing::error!(
            message_id = OperatorEvent::ReloadRefused.id(),
            "reload refused, the configuration is wrong; nothing has changed: {errors}"
        );
        self.status.set_rejected_reload(Some(format!("reload refused: {summary}; see the log")));
        self.send_status();
        if let Some(watch) = &self.reloads.file_watch {
            watch.note_outcome(true);
        }
        if let Some(client) = client {
            client.fail(CallFault::ReloadFailed { reason: errors.to_string() });
        }
    }

    /// Sends the outcome of a reload to the client that waits for it.
    pub(super) fn answer_reload(&mut self, generation: Generation, outcome: Result<(), BootFailure>) {
        let Some(client) = self.reloads.replies.remove(&generation) else { return };
        match outcome {
            Ok(()) => {
                let message = format!("generation {generation} serves");
                client.finish(&ReloadReply { message, generation: generation.0 });
            }
            Err(BootFailure { summary, traceback, .. }) => {
                let traceback = traceback.unwrap_or_default();
                client.fail(CallFault::ReloadFailed {
                    reason: format!("{summary}\n{}", last_lines(&traceback)),
                });
            }
        }
    }

    /// Applies a generation's configuration to new requests and connections.
    pub(super) fn go_live(&mut self, generation: Generation) {
        let Some(config) = self.generations.go_live(generation) else { return };
        let buffers = self.set_dispatch_policy(&config);
        let auto_limits = self.host.auto_limits;
        self.edge.reconfigure(
            self.reloads.http_settings(&config, &buffers),
            generations::net_limits(&config, auto_limits),
            |listener| generations::listener_tls(&config, self.generations.live_tls(), listener),
            |listener| generations::proxy_senders(&config, listener),
        );
        daemon_log::set_level(config.log.level);
    }

    /// Applies the limits and deadlines of a configuration to new and waiting requests. Returns the
    /// limits for buffered bodies.
    pub(super) fn set_dispatch_policy(&self, config: &Config) -> BufferLimits {
        let buffers = BufferLimits::measure(&config.limits, spool_directory());
        self.dispatcher.set_policy(generations::dispatch_policy(config, self.host.auto_limits, &buffers));
        buffers
    }

    /// Sends `reload.probe` to a worker that has not been admitted yet.
    pub(super) fn probe(&self, worker: WorkerId) {
        let config = self.generation(worker).and_then(|generation| self.generations.get(generation));
        let path = config.and_then(|config| config.reload.probe.clone());
        let (dispatcher, messages) = (self.dispatcher, self.messages_tx.clone());
        tokio::spawn(async move {
            let outcome = match path {
                Some(path) => probe::probe(dispatcher, worker, path).await,
                None => Ok(()),
            };
            // Sending fails only when the main loop has ended.
            drop(messages.send(MainMessage::ProbeFinished(worker, outcome)));
        });
    }
}

/// The end of a traceback: the exception, and where it was raised.
fn last_lines(traceback: &str) -> String {
    let lines: Vec<&str> = traceback.trim_end().lines().collect();
    let shown = lines.get(lines.len().saturating_sub(MAX_TRACEBACK_LINES)..).unwrap_or_default();
    shown.join("\n")
}
