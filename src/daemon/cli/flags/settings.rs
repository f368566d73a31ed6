//! Collects the settings that flags set.

use crate::config::{Layer, Setting, Value};

/// The settings of the flags, by key.
#[derive(Debug, Default)]
pub(super) struct FlagSettings(Layer);

impl FlagSettings {
    /// Sets `key`, unless `value` is `None`. `flag` names the origin in messages.
    pub(super) fn set(&mut self, key: &'static str, flag: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.0.insert(key, Setting::flag(flag, value));
        }
    }

    /// Sets `key`, unless another flag or source sets it.
    pub(super) fn imply(&mut self, key: &'static str, flag: &str, value: Value) {
        self.0.insert(key, Setting::implied(flag, value));
    }

    pub(super) fn into_layer(self) -> Layer {
        self.0
    }
}
