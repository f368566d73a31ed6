//! `reload.on_change`: watches the application's files, and reloads when they change.

use std::ffi::OsString;
use std::path::PathBuf;

use rgun_channel::control::Command;

use super::Daemon;
use super::messages::MainMessage;
use crate::config::Config;
use crate::file_watch::{self, FileWatch, WatchNotice, WatchRules, WatchSettings};
use crate::supervise::{BootFailureKind, Event, Report, WorkerSnapshot, WorkerState};

impl Daemon {
    /// Starts, adjusts or ends the watcher, as a configuration requires.
    pub(super) fn apply_file_watch(&mut self, config: &Config) {
        self.operator_log.watches_files = config.reload.on_change.enabled;
        if !config.reload.on_change.enabled {
            self.reloads.file_watch = None;
            return;
        }
        let settings = watch_settings(config);
        if let Some(watch) = &self.reloads.file_watch {
            watch.apply(settings);
            return;
        }
        if self.host.is_supervised {
            tracing::warn!(
                "reload.on_change is for development: a service would also load files that are only half copied; \
                 systemctl reload loads new code when it is complete"
            );
        }
        let messages = self.messages_tx.clone();
        // Fails only when the main loop has ended.
        let sink = Box::new(move |notice| drop(messages.send(MainMessage::FileWatch(notice))));
        match FileWatch::start(settings, sink) {
            Ok(watch) => self.reloads.file_watch = Some(watch),
            Err(error) => {
                tracing::error!(%error, "reload.on_change: cannot start the thread that watches files");
            }
        }
    }

    /// Handles a notice of the watcher: reloads, or asks the workers for the files they have
    /// loaded.
    pub(super) fn on_watch_notice(&mut self, notice: WatchNotice) -> Vec<Event> {
        match notice {
            WatchNotice::Changed(changes) => {
                let base = &self.generations.live().app.directory;
                tracing::info!("{} changed; reloading", file_watch::describe(&changes, base));
                self.reload(None)
            }
            WatchNotice::SourcesWanted => {
                let workers = self.supervisor.snapshot().workers;
                for worker in workers.iter().filter(|worker| worker.state == WorkerState::Ready) {
                    self.command(worker.worker, &Command::ReportSources);
                }
                Vec::new()
            }
        }
    }

    /// Passes the files that a worker has loaded to the watcher.
    pub(super) fn on_sources(&self, paths: Vec<OsString>) -> Vec<Event> {
        if let Some(watch) = &self.reloads.file_watch {
            watch.add_sources(paths.into_iter().map(PathBuf::from).collect());
        }
        Vec::new()
    }

    /// Stores whether the last start or reload has failed, for the watcher and for the developer's
    /// browser.
    pub(super) fn note_outcome(&mut self, report: &Report) {
        let Some(watch) = &self.reloads.file_watch else { return };
        match report {
            Report::WorkerBootFailed { failure, retry_in, .. } => {
                let traceback = failure.traceback.as_deref().unwrap_or_default();
                watch.add_sources(file_watch::sources_of_traceback(traceback));
                watch.note_outcome(true);
                let is_ready = |worker: &WorkerSnapshot| worker.state == WorkerState::Ready;
                // There is no retry if the failure ends a reload, which `ReloadFailed` reports, or
                // causes a rollback.
                if retry_in.is_some() && !self.supervisor.snapshot().workers.iter().any(is_ready) {
                    self.reloads.show_failure(Some((failure, false)));
                }
            }
            Report::ReloadFailed { failure, .. } if failure.kind != BootFailureKind::Superseded => {
                watch.note_outcome(true);
                self.reloads.show_failure(Some((failure, true)));
                self.reloads.is_behind = true;
            }
            Report::ReloadCompleted { .. } => {
                watch.note_outcome(false);
                self.reloads.show_failure(None);
                self.reloads.is_behind = false;
            }
            // After a failed reload, a ready worker runs the old code; the failure stays.
            Report::WorkerReady { .. } if !self.reloads.is_behind => {
                watch.note_outcome(false);
                self.reloads.show_failure(None);
            }
            _ => {}
        }
    }
}

fn watch_settings(config: &Config) -> WatchSettings {
    let on_change = &config.reload.on_change;
    let roots: Vec<PathBuf> =
        std::iter::once(&config.app.directory).chain(&config.app.pythonpath).cloned().collect();
    WatchSettings {
        rules: WatchRules::new(
            &roots,
            &on_change.dirs,
            config.origin.as_slice(),
            &on_change.include,
            &on_change.exclude,
        ),
        delay: on_change.delay,
        poll: on_change.poll,
    }
}
