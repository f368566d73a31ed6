//! The exit statuses of rgun; the units name some of them in `RestartPreventExitStatus=` and
//! `SuccessExitStatus=`.

/// EX_USAGE of sysexits(3head): the command line is wrong. systemd does not restart the service after it.
pub const EX_USAGE: u8 = 64;

/// EX_UNAVAILABLE of sysexits(3head): no daemon or no systemd answers a command.
pub const EX_UNAVAILABLE: u8 = 69;

/// EX_OSERR of sysexits(3head): the system refused a resource, or an address; a retry may help.
pub const EX_OSERR: u8 = 71;

/// EX_CONFIG of sysexits(3head): the configuration is wrong. systemd does not restart the service after it.
pub const EX_CONFIG: u8 = 78;

/// The exit status after `daemon.idle_exit`, which sysexits.h does not use. systemd must not restart
/// the daemon at once, as it does after 0.
pub const EX_UNUSED: u8 = 79;
