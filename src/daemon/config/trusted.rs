//! `proxy.trusted` and `proxy.protocol_trusted`: the peers that are trusted to name the client.
//! Also parses the flag `--forwarded-allow-ips` of gunicorn and uvicorn.

use std::net::IpAddr;

use ipnet::IpNet;

use super::proxy::loopback;
use super::value::Setting;
use super::{TrustedProxies, Value, ValueError, read};

/// The keyword for the loopback networks.
const LOOPBACK_PEERS: &str = "loopback";
/// The keyword for peers on unix sockets.
const UNIX_PEERS: &str = "unix";
/// The keyword for all peers.
const ALL_PEERS: &str = "all";

const EXAMPLES: &str =
    "write \"loopback\", \"unix\", an address, a network such as \"10.0.0.0/8\", or \"all\"";

pub(super) fn read(setting: &Setting) -> Result<TrustedProxies, ValueError> {
    let mut peers = TrustedProxies::NONE;
    if setting.is_empty_text() {
        return Ok(peers);
    }
    for word in read::strings(setting)? {
        match word {
            ALL_PEERS => peers.all = true,
            UNIX_PEERS => peers.unix = true,
            LOOPBACK_PEERS => loopback().into_iter().for_each(|network| add(&mut peers.networks, network)),
            other => add(&mut peers.networks, network(other)?),
        }
    }
    Ok(peers)
}

fn add(networks: &mut Vec<IpNet>, network: IpNet) {
    if !networks.contains(&network) {
        networks.push(network);
    }
}

fn network(word: &str) -> Result<IpNet, ValueError> {
    let error = |reason: &str| ValueError::new(format!("{word:?} {reason}"));
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    if let Ok(network) = word.parse::<IpNet>() {
        if network.trunc() == network {
            return Ok(network);
        }
        return Err(
            error("has bits outside of its prefix").with_hint(format!("write \"{}\"", network.trunc()))
        );
    }
    Err(match word {
        "*" => error("is not a keyword of this key").with_hint("write \"all\""),
        "localhost" => error("is a name").with_hint("write \"loopback\""),
        "" => error("is empty").with_hint("write [] to trust no peer"),
        word if word.starts_with('/') || word.starts_with("unix:") => {
            error("is a path; a peer on a unix socket has none").with_hint("write \"unix\" for all of them")
        }
        word => match super::keys::nearest(word, [LOOPBACK_PEERS, UNIX_PEERS, ALL_PEERS]) {
            Some(near) => {
                error("is neither an address nor a network").with_hint(format!("did you mean \"{near}\"?"))
            }
            None => error("is neither an address nor a network").with_hint(EXAMPLES),
        },
    })
}

/// Converts the list of `--forwarded-allow-ips` or `FORWARDED_ALLOW_IPS` to a value of the key. As
/// in gunicorn, every list except an empty one includes all peers on unix sockets. Uvicorn names
/// such a peer by a path; a path here stands for all peers on unix sockets.
pub(crate) fn forwarded_allow_ips(list: &str) -> Value {
    let words: Vec<&str> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Value::list::<String>([]);
    }
    let ours = words.into_iter().filter(|word| !word.starts_with('/') && !word.starts_with("unix:"));
    let ours = ours.map(|word| if word == "*" { ALL_PEERS } else { word });
    Value::list(ours.chain([UNIX_PEERS]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Source;

    fn read_from(value: Value, source: Source) -> Result<TrustedProxies, ValueError> {
        read(&Setting { value, origin: "x".to_owned(), source })
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn peers_are_keywords_addresses_and_networks() {
        let peers = read_from(
            Value::list([
                "loopback",
                "unix",
                "10.0.0.0/8",
                "192.0.2.1",
                "2001:db8::/32",
                "::1",
                "::ffff:192.0.2.1",
            ]),
            Source::File,
        );
        let expected = networks(&["127.0.0.0/8", "::1/128", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
        assert_eq!(peers.unwrap(), TrustedProxies { all: false, unix: true, networks: expected });
        let default = read_from(Value::list(["loopback", "unix"]), Source::File).unwrap();
        assert_eq!(default, TrustedProxies::default());
        assert_eq!(read_from(Value::list::<String>([]), Source::File).unwrap(), TrustedProxies::NONE);
        assert!(read_from(Value::text("all"), Source::File).unwrap().all);
        let variable = read_from(Value::text("10.0.0.0/8, unix"), Source::Environment).unwrap();
        assert_eq!(variable, TrustedProxies { all: false, unix: true, networks: networks(&["10.0.0.0/8"]) });
        assert_eq!(read_from(Value::text(""), Source::Environment).unwrap(), TrustedProxies::NONE);
    }

    #[test]
    fn invalid_peer_is_refused_with_a_hint() {
        for (word, hint) in [
            ("*", "\"all\""),
            ("localhost", "\"loopback\""),
            ("lopback", "did you mean \"loopback\"?"),
            ("10.0.0.5/8", "\"10.0.0.0/8\""),
            ("10.0.0.0/33", "a network"),
            ("10.0.0", "a network"),
            ("proxy.internal", "a network"),
            ("/run/x.sock", "\"unix\""),
            ("", "[]"),
        ] {
            let error = read_from(Value::list([word]), Source::File).unwrap_err();
            assert!(error.reason.contains(&format!("{word:?}")), "{error}");
            assert!(error.hint.as_deref().unwrap().contains(hint), "{word}: {error}");
        }
        assert!(read_from(Value::Boolean(true), Source::File).is_err());
    }

    #[test]
    fn forwarded_allow_ips_lists_are_converted() {
        for (list, words) in [
            ("127.0.0.1,::1", &["127.0.0.1", "::1", "unix"][..]),
            (" 10.0.0.0/8 , 192.0.2.1 ", &["10.0.0.0/8", "192.0.2.1", "unix"]),
            ("*", &["all", "unix"]),
            ("127.0.0.1,*", &["127.0.0.1", "all", "unix"]),
            ("/run/nginx.sock", &["unix"]),
            ("unix:", &["unix"]),
            ("", &[]),
            (" , ", &[]),
        ] {
            let value = forwarded_allow_ips(list);
            assert_eq!(value, Value::list(words.iter().copied()), "{list}");
            read_from(value, Source::CommandLine).unwrap();
        }
    }
}
