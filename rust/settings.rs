//! What the packet threads are told when they start, as the message Start of python/proxyvpn/messages.py has it.
//!
//! Checked here once more: a bad value ends the start, never a connection.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use smoltcp::time::Instant;

use crate::addresses::{self, Addresses, Table};
use crate::balance::Balance;
use crate::dns::Name;
use crate::error::Error;
use crate::means::Scheme;
use crate::names::{Mode, Names, Reach};
use crate::names_file::NamesFile;
use crate::roster::Policy;
use crate::stats::Stats;
use crate::target::Target;
use crate::upstreams::{Proxy, share_logins};

/// See the head of this file.
#[derive(Clone)]
pub struct Settings {
    pub proxies: Vec<Proxy>,
    pub policy: Policy,
    /// None where names are resolved outside the tunnel.
    pub names: Option<Naming>,
}

/// How names are resolved.
#[derive(Clone)]
pub struct Naming {
    pub mode: Mode,
    /// Domains whose names are this network's.
    pub domains: Vec<Name>,
    /// Resolvers behind the proxy.
    pub resolvers: Vec<Resolver>,
    /// Whether this network has resolvers.
    pub direct: bool,
    /// The file in which virtual addresses outlive this process.
    pub file: Option<Arc<OwnedFd>>,
}

/// A resolver behind the proxy.
#[derive(Clone, Debug)]
pub struct Resolver {
    pub target: Target,
    /// For DNS over HTTPS: its host, as a certificate names it, and the path; else DNS over TCP is spoken.
    pub https: Option<(String, String)>,
}

impl Settings {
    /// Give the settings with these proxies.
    pub fn of(mut proxies: Vec<Proxy>, policy: Policy) -> Result<Settings, Error> {
        share_logins(&mut proxies, &[]);
        if proxies.is_empty() {
            return Err(Error::Setting("at least one proxy is needed".to_owned()));
        }
        Ok(Settings { proxies, policy, names: None })
    }
}

impl Naming {
    /// Give the names for all threads; `most` virtual addresses at most.
    pub fn names(&self, stats: &Arc<Stats>, now: Instant) -> Result<Names, Error> {
        let table = match &self.file {
            None => Table::new(addresses::MOST, Arc::clone(stats)),
            Some(file) => {
                let file = file.try_clone().map_err(|error| Error::Setting(error.to_string()))?;
                Table::restore(NamesFile::new(file), addresses::MOST, now, Arc::clone(stats))
            }
        };
        let reach = Reach { proxy: !self.resolvers.is_empty(), direct: self.direct };
        Ok(Names::new(self.mode, self.domains.clone(), reach, Addresses::new(table)))
    }
}

/// Give the domain that `text` is.
pub fn domain(text: &str) -> Result<Name, Error> {
    Name::parse(text).ok_or_else(|| Error::Setting(format!("{text:?} is not a domain")))
}

/// Give the resolver at `host`; `path` is empty where DNS over TCP is meant.
pub fn resolver(host: &str, port: u16, path: &str) -> Result<Resolver, Error> {
    let target = Target::parse(host, port).ok_or_else(|| Error::Setting(format!("{host:?} is no resolver")))?;
    if !(path.is_empty() || path.starts_with('/')) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Setting("the path of a resolver is none".to_owned()));
    }
    Ok(Resolver { target, https: (!path.is_empty()).then(|| (host.to_owned(), path.to_owned())) })
}

/// Give what the user wants of several proxies; an empty `host` names nothing to check health with.
pub fn policy(way: &str, host: &str, port: u16, on_refusal: bool) -> Result<Policy, Error> {
    let balance = Balance::named(way).ok_or_else(|| Error::Setting(format!("{way:?} is no way to balance")))?;
    let target = || Target::parse(host, port).ok_or_else(|| Error::Setting("no target of a health check".to_owned()));
    let check = if host.is_empty() { None } else { Some(target()?) };
    Ok(Policy { balance, check, on_refusal })
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
