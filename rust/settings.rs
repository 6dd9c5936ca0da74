//! What the packet threads are told when they start, as the message Start of python/proxyvpn/messages.py has it.
//!
//! Checked here once more: a bad value ends the start, never a connection.

use std::net::{IpAddr, SocketAddr};

use crate::balance::Balance;
use crate::error::Error;
use crate::means::Scheme;
use crate::naming::Naming;
use crate::roster::Policy;
use crate::target::Target;
use crate::upstreams::{Proxy, share_logins};

/// See the head of this file.
#[derive(Clone)]
pub struct Settings {
    pub proxies: Vec<Proxy>,
    pub policy: Policy,
    /// None where names are resolved outside the tunnel.
    pub naming: Option<Naming>,
}

impl Settings {
    /// Give the settings with these proxies.
    pub fn of(mut proxies: Vec<Proxy>, policy: Policy) -> Result<Settings, Error> {
        share_logins(&mut proxies, &[]);
        if proxies.is_empty() {
            return Err(Error::Setting("at least one proxy is needed".to_owned()));
        }
        Ok(Settings { proxies, policy, naming: None })
    }
}

/// Give what the user wants of several proxies; an empty `host` names nothing to check health with.
pub fn policy(way: &str, host: &str, port: u16, on_refusal: bool) -> Result<Policy, Error> {
    let balance = Balance::named(way).ok_or_else(|| Error::Setting(format!("{way:?} is no way to balance")))?;
    let target = || Target::parse(host, port).ok_or_else(|| Error::Setting("no target of a health check".to_owned()));
    let check = if host.is_empty() { None } else { Some(target()?) };
    Ok(Policy { balance, check, on_refusal, by_script: false })
}

/// Give the address of a proxy or a resolver.
pub fn address(ip: &str, port: u16) -> Result<SocketAddr, Error> {
    let ip: IpAddr = ip.parse().map_err(|_| Error::Setting(format!("{ip:?} is not an IP address")))?;
    if port == 0 {
        return Err(Error::Setting("nobody listens on port 0".to_owned()));
    }
    Ok(SocketAddr::new(ip, port))
}

/// Say no to a text that holds a control character: it becomes part of a request.
pub fn sendable<'a>(what: &str, text: &'a [u8]) -> Result<&'a [u8], Error> {
    if text.iter().any(u8::is_ascii_control) {
        return Err(Error::Setting(format!("{what} holds a control character")));
    }
    Ok(text)
}

/// Give the schemes of authentication with these names; all of them for none.
pub fn schemes(names: &[String]) -> Result<Vec<Scheme>, Error> {
    if names.is_empty() {
        return Ok(Scheme::ALL.to_vec());
    }
    let found = names.iter().map(|name| Scheme::named(name).ok_or(name));
    found.collect::<Result<_, _>>().map_err(|name| Error::Setting(format!("{name:?} is no scheme of authentication")))
}
