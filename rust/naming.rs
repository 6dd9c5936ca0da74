//! How names are to be resolved, as the packet threads are told it when they start: checked, and made into what they use.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use smoltcp::time::Instant;

use crate::addresses::{self, Addresses, Table};
use crate::dns::Name;
use crate::error::Error;
use crate::names::{Mode, Names, Reach};
use crate::names_file::NamesFile;
use crate::stats::Stats;
use crate::target::Target;
use crate::trust::{Client, Trust};

/// See the head of this file.
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
    /// For DNS over HTTPS; else DNS over TCP is spoken.
    pub https: Option<Secure>,
}

/// What DNS over HTTPS needs: the host is that of the URL, which the certificate must be for.
#[derive(Clone, Debug)]
pub struct Secure {
    pub client: Client,
    pub host: String,
    pub path: String,
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

/// Give the resolver at `host`; `path` is empty where DNS over TCP is meant, `trust` is for DNS over HTTPS.
pub fn resolver(host: &str, port: u16, path: &str, trust: Option<&Trust>) -> Result<Resolver, Error> {
    let target = Target::parse(host, port).ok_or_else(|| Error::Setting(format!("{host:?} is no resolver")))?;
    if !(path.is_empty() || path.starts_with('/')) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Setting("the path of a resolver is none".to_owned()));
    }
    let https = match (path, trust) {
        ("", _) => None,
        (_, None) => return Err(Error::Setting("a resolver by HTTPS, and nobody to trust".to_owned())),
        (_, Some(trust)) => Some(Secure { client: trust.client(host)?, host: host.to_owned(), path: path.to_owned() }),
    };
    Ok(Resolver { target, https })
}
