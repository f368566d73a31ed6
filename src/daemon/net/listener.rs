//! Listening sockets: inherited from systemd, or bound by the daemon.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgun_channel::control::ListenerInfo;
use socket2::{Domain, Protocol, Socket, Type};

use super::handshake::ListenerTls;
use super::proxy_protocol::ProxyProtocol;
use crate::config::Bind;
use crate::systemd::listen::{InheritedListener, InheritedSocket};

/// A non-blocking listening socket.
#[derive(Debug)]
pub struct Listener {
    /// `FileDescriptorName=` of an inherited socket, or the NAME of `[listen.NAME]`, else the
    /// address.
    pub name: String,
    /// The PROXY protocol on this listener. Shared, because a reload changes it.
    pub proxy_protocol: Arc<ProxyProtocol>,
    /// The TLS settings of this listener.
    pub tls: Arc<ListenerTls>,
    socket: ListenerSocket,
    /// True if the daemon bound the socket, false if systemd passed it.
    is_own: bool,
    /// Path of a unix socket that the daemon bound; removed on drop.
    unlink_path: Option<PathBuf>,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket registered with the reactor.
#[derive(Debug)]
pub enum Acceptor {
    /// IPv4 or IPv6.
    Tcp(tokio::net::TcpListener),
    /// `AF_UNIX`.
    Unix(tokio::net::UnixListener),
}

/// An error of binding an address. The caller adds the name of the setting.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens on the address.
    #[error("{0} is in use by another process (`{command}` shows which); stop it, or choose another address",
        command = show_command(.0))]
    InUse(Bind),
    /// No interface has the address.
    #[error(
        "no network interface has the address of {0} (`ip address` shows those of this machine); correct it. \
         If the address appears later, let systemd listen: ListenStream= and FreeBind=yes in a socket unit"
    )]
    NotAvailable(Bind),
    /// The port is privileged (ip(7)).
    #[error(
        "{0} may not be used: a port below 1024 needs CAP_NET_BIND_SERVICE; choose another port, or let systemd \
         listen: ListenStream= in a socket unit"
    )]
    Denied(Bind),
    /// The path exists and is not a socket.
    #[error("{0} exists and is not a socket; remove it or choose another path")]
    NotASocket(Bind),
    /// The host name cannot be resolved.
    #[error("cannot resolve the host of {bind}; use an address such as 127.0.0.1")]
    Resolve {
        /// The configured address.
        bind: Bind,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The directory of a unix socket does not exist.
    #[error(
        "cannot listen on {bind}: there is no directory {}; RuntimeDirectory= of the unit creates one in /run",
        directory.display()
    )]
    NoDirectory {
        /// The configured address.
        bind: Bind,
        /// The missing directory.
        directory: PathBuf,
    },
    /// Another error of the operating system.
    #[error("cannot listen on {bind}")]
    System {
        /// The configured address.
        bind: Bind,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Returns the command that shows which process listens on an address.
fn show_command(bind: &Bind) -> &'static str {
    match bind {
        Bind::Tcp { .. } => "ss -ltnp",
        Bind::Unix { .. } => "ss -lxp",
    }
}

/// Length of the backlog. The kernel caps the length at `net.core.somaxconn` (listen(2)), as it
/// caps systemd's default.
const BACKLOG: i32 = 65_535;

/// Mode of a unix socket that the daemon binds: every user may connect, as with gunicorn, because
/// the proxy runs as another user. A socket unit has `SocketUser=`, `SocketGroup=` and
/// `SocketMode=` instead.
const UNIX_MODE: u32 = 0o666;

impl Listener {
    /// Wraps a socket that systemd passed.
    pub fn inherited(inherited: InheritedListener) -> Self {
        let socket = match inherited.socket {
            InheritedSocket::Tcp(listener) => ListenerSocket::Tcp(listener),
            InheritedSocket::Unix(listener) => ListenerSocket::Unix(listener),
        };
        Self {
            name: inherited.name,
            proxy_protocol: Arc::default(),
            tls: Arc::default(),
            socket,
            is_own: false,
            unlink_path: None,
        }
    }

    /// Binds an address. `name` is NAME of its table `[listen.NAME]`; `None` for an address of
    /// `listen.bind`.
    ///
    /// # Errors
    /// Returns an error whose text names the remedy.
    pub fn bind(bind: &Bind, name: Option<&str>) -> Result<Self, BindError> {
        let named = |address: String| name.map_or(address, str::to_owned);
        match bind {
            Bind::Tcp { host, port } => {
                let listener = bind_tcp(bind, host, *port)?;
                let name = named(listener.local_addr().map_or_else(|_| bind.to_string(), |a| a.to_string()));
                let socket = ListenerSocket::Tcp(listener);
                Ok(Self {
                    name,
                    proxy_protocol: Arc::default(),
                    tls: Arc::default(),
                    socket,
                    is_own: true,
                    unlink_path: None,
                })
            }
            Bind::Unix { path } => {
                let listener = bind_unix(bind, path)?;
                Ok(Self {
                    name: named(bind.to_string()),
                    proxy_protocol: Arc::default(),
                    tls: Arc::default(),
                    socket: ListenerSocket::Unix(listener),
                    is_own: true,
                    unlink_path: Some(path.clone()),
                })
            }
        }
    }

    /// True if the daemon bound the socket, which then closes with the daemon.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Returns the bound address as text, for the log.
    pub fn address(&self) -> String {
        match &self.socket {
            ListenerSocket::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| self.name.clone(), |address| address.to_string())
            }
            ListenerSocket::Unix(listener) => format!("unix:{}", unix_path(listener)),
        }
    }

    /// Returns `SERVER_NAME` and `SERVER_PORT` (PEP 3333), which must not be empty. A unix socket
    /// has neither; it gets `localhost` and 80, the default port, which URLs omit.
    pub fn info(&self) -> ListenerInfo {
        match &self.socket {
            ListenerSocket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => {
                    let ip = address.ip();
                    let name = if ip.is_unspecified() { host_name() } else { ip.to_string() };
                    ListenerInfo { name, port: address.port().to_string(), path: String::new() }
                }
                Err(_) => ListenerInfo { name: host_name(), port: "80".to_owned(), path: String::new() },
            },
            ListenerSocket::Unix(listener) => ListenerInfo {
                name: "localhost".to_owned(),
                port: "80".to_owned(),
                path: unix_path(listener),
            },
        }
    }

    /// Registers the socket with the current reactor.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn acceptor(&self) -> io::Result<Acceptor> {
        Ok(match &self.socket {
            ListenerSocket::Tcp(listener) => {
                Acceptor::Tcp(tokio::net::TcpListener::from_std(listener.try_clone()?)?)
            }
            ListenerSocket::Unix(listener) => {
                Acceptor::Unix(tokio::net::UnixListener::from_std(listener.try_clone()?)?)
            }
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.unlink_path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(%error, path = %path.display(), "cannot remove the socket file, ignoring");
        }
    }
}

fn bind_tcp(bind: &Bind, host: &str, port: u16) -> Result<TcpListener, BindError> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|source| BindError::Resolve { bind: bind.clone(), source })?
        .collect();
    // gunicorn resolves names to IPv4, and so do most proxies: `localhost` is 127.0.0.1.
    let Some(address) = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) else {
        let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(BindError::Resolve { bind: bind.clone(), source });
    };
    listen_tcp(*address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(bind.clone()),
        io::ErrorKind::AddrNotAvailable => BindError::NotAvailable(bind.clone()),
        io::ErrorKind::PermissionDenied if address.port() < 1024 => BindError::Denied(bind.clone()),
        _ => BindError::System { bind: bind.clone(), source },
    })
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without SO_REUSEADDR, a restart fails while old connections are in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(bind: &Bind, path: &Path) -> Result<UnixListener, BindError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        let directory = directory.to_owned();
        return Err(BindError::NoDirectory { bind: bind.clone(), directory });
    }
    let system = |source| BindError::System { bind: bind.clone(), source };
    match fs::symlink_metadata(path) {
        Ok(existing) if !existing.file_type().is_socket() => {
            return Err(BindError::NotASocket(bind.clone()));
        }
        Ok(_) => {
            // A socket file without a listener was left by a crash; it is removed.
            if UnixStream::connect(path).is_ok() {
                return Err(BindError::InUse(bind.clone()));
            }
            fs::remove_file(path).map_err(system)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
    }
    let listener = UnixListener::bind(path).map_err(system)?;
    fs::set_permissions(path, fs::Permissions::from_mode(UNIX_MODE)).map_err(system)?;
    listener.set_nonblocking(true).map_err(system)?;
    Ok(listener)
}

fn unix_path(listener: &UnixListener) -> String {
    listener
        .local_addr()
        .ok()
        .and_then(|address| address.as_pathname().map(|path| path.to_string_lossy().into_owned()))
        .unwrap_or_default()
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
