//! A reload, as far as it is not the supervisor's: reading the configuration again, the probe, going live, the verdict.

use std::sync::Arc;

use super::buffer_limits::BufferLimits;
use super::messages::{MainMessage, Reply, ReplySender};
use super::system::spool_directory;
use super::{Daemon, generations, probe};
use crate::config::ConfigError;
use crate::id::{Generation, WorkerId};
use crate::journal::daemon_log;
use crate::supervise::{BootFailure, Event};

impl Daemon {
    pub(super) fn reload(&mut self, asker: Option<ReplySender>) -> Vec<Event> {
        match self.invocation.reread() {
            Ok(invocation) => {
                for warning in &invocation.warnings {
                    tracing::warn!("{warning}");
                }
                self.rejected_reload = None;
                let policy = generations::policy(&invocation.config, self.cores, self.supervised);
                let generation = self.supervisor.next_generation();
                self.generations.add(generation, invocation.config);
                self.set_timers();
                if let Some(asker) = asker {
                    let text = format!("generation {generation} boots beside the one that serves");
                    let _listening = asker.send(Reply::Progress(text));
                    self.pending_replies.insert(generation, asker);
                }
                vec![Event::Reload { policy }]
            }
            Err(failure) => {
                let reason = failure.to_string();
                tracing::error!("reload refused, the configuration is wrong; nothing has changed: {reason}");
                // Not the value, which may be a secret at the wrong place: everybody may read the line.
                let place = failure.0.first().map(ConfigError::place).unwrap_or_default();
                self.rejected_reload = Some(format!("reload refused: {place} is wrong; the log says what"));
                self.send_status();
                if let Some(asker) = asker {
                    let _listening = asker.send(Reply::Failed(reason));
                }
                Vec::new()
            }
        }
    }

    pub(super) fn reply_verdict(&mut self, generation: Generation, outcome: Result<(), BootFailure>) {
        let Some(asker) = self.pending_replies.remove(&generation) else { return };
        let word = match outcome {
            Ok(()) => Reply::Done(format!("generation {generation} serves")),
            Err(BootFailure { summary, traceback, .. }) => {
                let traceback = traceback.unwrap_or_default();
                Reply::Failed(format!("{summary}\n{}", last_lines(&traceback)))
            }
        };
        // Who asked may have gone: the journal has it too.
        let _listening = asker.send(word);
    }

    pub(super) fn go_live(&mut self, generation: Generation) {
        let Some(config) = self.generations.go_live(generation) else { return };
        let room = BufferLimits::measure(&config.limits, spool_directory());
        self.dispatcher.set_policy(generations::dispatch_policy(&config, self.auto_limits, &room));
        self.server = self.server.with_settings(generations::http_settings(&config, &room));
        self.edge.serve_with(Arc::clone(&self.server));
        self.connections.set_limits(generations::net_limits(&config, self.auto_limits));
        daemon_log::set_level(config.log.level);
    }

    pub(super) fn probe(&self, worker: WorkerId) {
        let config = self.generation(worker).and_then(|generation| self.generations.get(generation));
        let path = config.and_then(|config| config.reload.probe.clone());
        let (dispatcher, tell) = (self.dispatcher, self.messages_tx.clone());
        tokio::spawn(async move {
            let outcome = match path {
                Some(path) => probe::probe(dispatcher, worker, path).await,
                None => Ok(()),
            };
            let _after_the_end = tell.send(MainMessage::ProbeFinished(worker, outcome));
        });
    }
}

/// The end of a traceback: what it was, and where.
fn last_lines(traceback: &str) -> String {
    let lines: Vec<&str> = traceback.trim_end().lines().collect();
    let shown = lines.get(lines.len().saturating_sub(MAX_TRACEBACK_LINES)..).unwrap_or_default();
    shown.join("\n")
}

/// Lines of a traceback that `rgun reload` prints; the journal has all of them.
const MAX_TRACEBACK_LINES: usize = 12;
