//! Where else the kernel log goes: a receiver that cannot be is told where the policy is read, not when the log matters.

use std::{fmt, path::PathBuf};

use super::{
    problem::{At, Desk},
    section::{Given, Section, twice},
};

/// Outlets of one policy.
const OUTLETS: usize = 8;
/// Bytes of a unix socket's path (`sun_path`, less its NUL).
const SOCKET_PATH: usize = 107;
/// Characters of a host's name.
const HOST: usize = 253;

/// Somebody who gets each line of the kernel log as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// The journal of this host, in its native protocol.
    Journald,
    /// A receiver of RFC 5424.
    Syslog(Syslog),
}

/// How a receiver of RFC 5424 is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syslog {
    /// A datagram socket of this host.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Udp(String),
    /// `HOST:PORT`.
    Tcp(String),
}

impl fmt::Display for Outlet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journald => out.write_str("journald"),
            Self::Syslog(Syslog::Unix(path)) => write!(out, "unix:{}", path.display()),
            Self::Syslog(Syslog::Udp(to)) => write!(out, "udp:{to}"),
            Self::Syslog(Syslog::Tcp(to)) => write!(out, "tcp:{to}"),
        }
    }
}

/// Reads `forward` of `kernel_log`. One that is wrong is told, and left out.
pub(super) fn outlets(desk: &mut Desk, given: Given<'_>) -> Vec<Outlet> {
    let items = given.list(desk).unwrap_or_default();
    if items.len() > OUTLETS {
        given.wrong(desk, format!("{} outlets; at most {OUTLETS}", items.len()));
    }
    let mut outlets: Vec<(Outlet, At)> = Vec::new();
    for item in items.iter().take(OUTLETS) {
        let Some(section) = Section::new(desk, item, "kernel_log.forward[]") else {
            continue;
        };
        let Some(outlet) = outlet(desk, &section) else {
            continue;
        };
        if let Some((_, first)) = outlets.iter().find(|(known, _)| *known == outlet) {
            let first = desk.place(*first).to_string();
            twice(desk, item.at, &format!("`{outlet}`"), &first);
            continue;
        }
        outlets.push((outlet, item.at));
    }
    outlets.into_iter().map(|(outlet, _)| outlet).collect()
}

fn outlet(desk: &mut Desk, section: &Section<'_>) -> Option<Outlet> {
    /// What `to` may be.
    enum To {
        Journald,
        Syslog,
    }
    let to = section.need(desk, "to").and_then(|given| {
        given.parse(desk, |text| match text {
            "journald" => Some(To::Journald),
            "syslog" => Some(To::Syslog),
            _ => None,
        })
    });
    let address = section.get("address");
    // What it should have been is known only with `to`; that it is no text is wrong in any case.
    let text = match address {
        Some(given) => Some(given.text(desk)?),
        None => None,
    };
    match (to?, address, text) {
        (To::Journald, None, _) => Some(Outlet::Journald),
        (To::Journald, Some(given), _) => {
            given.wrong(
                desk,
                "the journal has no `address`: it is this host's".to_owned(),
            );
            None
        }
        (To::Syslog, Some(given), Some(text)) => {
            let outlet = address_of(text);
            if outlet.is_none() {
                let short: String = text.chars().take(120).collect();
                given.wrong(
                    desk,
                    format!("`address` cannot be `{}`", short.escape_debug()),
                );
            }
            outlet.map(Outlet::Syslog)
        }
        (To::Syslog, ..) => {
            section.need(desk, "address");
            None
        }
    }
}

/// Takes an address apart.
fn address_of(text: &str) -> Option<Syslog> {
    let (protocol, rest) = text.split_once(':')?;
    match protocol {
        "unix" => {
            let fits = rest.starts_with('/')
                && !rest.ends_with('/')
                && rest.len() <= SOCKET_PATH
                && !rest.chars().any(char::is_control);
            fits.then(|| Syslog::Unix(PathBuf::from(rest)))
        }
        "udp" => host_and_port(rest).map(Syslog::Udp),
        "tcp" => host_and_port(rest).map(Syslog::Tcp),
        _ => None,
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets.
fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    let named = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    let is_host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= HOST && host.chars().all(named),
    };
    (is_port && is_host).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_protocol_and_a_place_that_there_can_be() {
        for good in [
            "unix:/dev/log",
            "udp:logs.example.net:514",
            "tcp:10.0.0.1:6514",
            "tcp:[2001:db8::1]:514",
        ] {
            let outlet = Outlet::Syslog(address_of(good).unwrap());
            assert_eq!(outlet.to_string(), good);
        }
        let long = format!("unix:/{}", "a".repeat(SOCKET_PATH));
        for bad in [
            "",
            "/dev/log",
            "unix:dev/log",
            "unix:/run/",
            "unix:/a\nb",
            long.as_str(),
            "udp:host",
            "udp:host:",
            "udp::514",
            "udp:host:0",
            "udp:host:65536",
            "udp:host:+514",
            "tcp:2001:db8::1:514",
            "tcp:[host]:514",
            "tcp:a b:514",
            "tls:host:514",
        ] {
            assert_eq!(address_of(bad), None, "{bad}");
        }
        assert!(address_of(&long[..long.len() - 1]).is_some());
    }
}
