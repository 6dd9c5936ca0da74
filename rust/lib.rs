//! proxyvpn's data plane: TUN packets in, HTTP CONNECT out. This file is the door to Python, and only that: the only
//! `use pyo3`. docs/architecture.md tells how the rooms hang together.

pub mod addresses;
pub mod approach;
pub mod attempt;
pub mod auth;
pub mod balance;
pub mod body;
pub mod cache;
pub mod challenge;
pub mod choice;
pub mod connect;
pub mod counted;
pub mod datagram;
pub mod desk;
pub mod device;
pub mod digest;
pub mod dns;
pub mod enquiry;
pub mod errand;
pub mod error;
pub mod fields;
pub mod flow;
pub mod framing;
pub mod health;
pub mod inner_tls;
pub mod latency;
pub mod link;
pub mod lockout;
pub mod login;
pub mod lookups;
pub mod means;
pub mod mistrust;
pub mod names;
pub mod names_file;
pub mod naming;
pub mod packet;
pub mod phase;
pub mod pool;
pub mod probe;
pub mod race;
pub mod refusal;
pub mod relay;
pub mod reply;
pub mod rings;
pub mod roster;
pub mod sandbox;
pub mod sessions;
pub mod settings;
pub mod shared;
pub mod speech;
pub mod spin;
pub mod stack;
pub mod standing;
pub mod stats;
pub mod tally;
pub mod target;
pub mod threads;
pub mod timer;
pub mod tls;
pub mod token;
pub mod trial;
pub mod trust;
pub mod upstream;
pub mod upstreams;
pub mod validity;
pub mod verifier;
pub mod ways;
pub mod wishes;
pub mod worker;

#[cfg(feature = "python")]
mod python {
    use std::collections::HashMap;
    use std::fs::File;
    use std::io::Read;
    use std::mem::ManuallyDrop;
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
    use std::sync::{Arc, Mutex};

    use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
    use pyo3::prelude::*;
    use pyo3::types::{IntoPyDict, PyBytes, PyDict};
    use smoltcp::time::Instant;

    use crate::error::Error;
    use crate::login::Login;
    use crate::means::Means;
    use crate::names::Mode;
    use crate::naming::{self, Naming};
    use crate::roster::Policy;
    use crate::settings::{self, Settings, address, schemes, sendable};
    use crate::target::Target;
    use crate::threads::Threads;
    use crate::trust::Trust;
    use crate::upstreams::Proxy;
    use crate::worker::clock;

    /// Of a file; the system's trust store has a fraction of a megabyte.
    const MOST_BYTES: u64 = 16 << 20;

    /// The attributes of a message Start.
    #[derive(FromPyObject)]
    struct Start {
        upstreams: Vec<Upstream>,
        balancing: Balancing,
        names: Names,
        has_resolvers: bool,
        by_script: bool,
    }

    #[derive(FromPyObject)]
    struct Balancing {
        way: String,
        check_host: String,
        check_port: u16,
        on_refusal: bool,
    }

    #[derive(FromPyObject)]
    struct Names {
        mode: String,
        domains: Vec<String>,
        resolvers: Vec<Resolver>,
    }

    #[derive(FromPyObject)]
    struct Resolver {
        host: String,
        port: u16,
        path: String,
    }

    #[derive(FromPyObject)]
    struct Upstream {
        endpoint: Endpoint,
        name: String,
        tls: bool,
        user: String,
        password: Vec<u8>,
        schemes: Vec<String>,
        preemptive: bool,
    }

    #[derive(FromPyObject)]
    struct Endpoint {
        #[pyo3(from_py_with = text)]
        address: String,
        port: u16,
    }

    fn text(value: &Bound<'_, PyAny>) -> PyResult<String> {
        Ok(value.str()?.to_string())
    }

    impl Upstream {
        fn proxy(self, trust: Option<&Trust>) -> Result<Proxy, Error> {
            let tls = match (self.tls, trust) {
                (false, _) => None,
                (true, Some(trust)) => Some(trust.client(&self.name)?),
                (true, None) => return Err(Error::Setting("an https:// proxy, and nobody to trust".to_owned())),
            };
            sendable("a user", self.user.as_bytes())?;
            sendable("a password", &self.password)?;
            let allowed = schemes(&self.schemes)?;
            let means =
                Means { user: self.user.into_bytes(), password: self.password, allowed, preemptive: self.preemptive };
            Ok(Proxy {
                address: address(&self.endpoint.address, self.endpoint.port)?,
                name: self.name,
                tls,
                login: Login::new(means),
            })
        }
    }

    impl Start {
        fn settings(self, files: &HashMap<String, RawFd>, trust: Option<&Trust>) -> Result<Settings, Error> {
            let wanted = self.balancing;
            let policy = settings::policy(&wanted.way, &wanted.check_host, wanted.check_port, wanted.on_refusal)?;
            let policy = Policy { by_script: self.by_script, ..policy };
            let mut settings = Settings::of(proxies(self.upstreams, trust)?, policy)?;
            settings.naming = self.names.naming(self.has_resolvers, files)?;
            Ok(settings)
        }
    }

    impl Names {
        fn naming(self, direct: bool, files: &HashMap<String, RawFd>) -> Result<Option<Naming>, Error> {
            let mode = match self.mode.as_str() {
                "direct" => return Ok(None),
                "virtual" => Mode::Virtual,
                "proxy" => Mode::Proxy,
                _ => return Err(Error::Setting("names cannot be resolved that way".to_owned())),
            };
            let authorities = files.get("authorities").map(|&fd| content(fd)).transpose();
            let authorities = authorities.map_err(|error| Error::Setting(error.to_string()))?;
            let trust = authorities.map(|bytes| Trust::new(&bytes, None)).transpose()?;
            let of = |each: &Resolver| naming::resolver(&each.host, each.port, &each.path, trust.as_ref());
            // SAFETY: the caller's descriptor is open during this call.
            let copy = |fd: &RawFd| unsafe { BorrowedFd::borrow_raw(*fd) }.try_clone_to_owned();
            Ok(Some(Naming {
                mode,
                domains: self.domains.iter().map(|text| naming::domain(text)).collect::<Result<_, _>>()?,
                resolvers: self.resolvers.iter().map(of).collect::<Result<_, _>>()?,
                direct,
                file: files
                    .get("names")
                    .map(copy)
                    .transpose()
                    .map_err(|error| Error::Setting(error.to_string()))?
                    .map(Arc::new),
            }))
        }
    }

    /// See _tunstack.pyi.
    #[pyclass]
    struct Stack {
        threads: Mutex<Threads>,
        /// For proxies that come later, too.
        trust: Option<Trust>,
    }

    type Outcome = (usize, &'static str, String);
    /// Address, port, state, seconds since when, counters.
    type Standing = (String, u16, &'static str, u64, HashMap<&'static str, u64>);
    type Wish<'py> = (u64, &'static str, Bound<'py, PyBytes>);

    #[pymethods]
    impl Stack {
        #[new]
        fn new(start: Start, files: HashMap<String, RawFd>) -> PyResult<Stack> {
            let trust = trust(&files)?;
            let threads = start.settings(&files, trust.as_ref()).and_then(Threads::new).map_err(to_python)?;
            Ok(Stack { threads: Mutex::new(threads), trust })
        }

        fn attempt(&self, target: Option<(String, u16)>) -> PyResult<()> {
            let target = match target {
                None => None,
                Some((host, port)) => {
                    Some(Target::parse(&host, port).ok_or_else(|| PyValueError::new_err("no target"))?)
                }
            };
            self.with(|threads| threads.attempt(target).map_err(to_python))
        }

        fn tried(&self) -> PyResult<Option<Vec<Outcome>>> {
            let outcomes = self.with(|threads| Ok(threads.tried()))?;
            Ok(outcomes.map(|all| all.into_iter().map(|one| (one.proxy, one.kind, one.text)).collect()))
        }

        fn carry(&self, queues: Vec<RawFd>) -> PyResult<()> {
            self.with(|threads| threads.carry(&queues).map_err(to_python))
        }

        fn fileno(&self) -> PyResult<RawFd> {
            self.with(|threads| Ok(threads.signal().as_raw_fd()))
        }

        fn notes(&self) -> PyResult<Vec<String>> {
            self.with(|threads| threads.notes().map_err(PyRuntimeError::new_err))
        }

        fn wishes<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<Wish<'py>>> {
            let wishes = self.with(|threads| Ok(threads.wishes(most)))?;
            Ok(wishes.into_iter().map(|wish| (wish.number, wish.kind, PyBytes::new(py, &wish.content))).collect())
        }

        fn grant(&self, number: u64, content: Vec<u8>, refusal: String, fd: RawFd) -> PyResult<()> {
            // SAFETY: the caller gives the descriptor away with this call.
            let fd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
            let grant = if refusal.is_empty() { Ok((content, fd)) } else { Err(refusal) };
            self.with(|threads| {
                threads.grant(number, grant);
                Ok(())
            })
        }

        fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
            self.with(|threads| threads.stats().snapshot().into_py_dict(py))
        }

        fn standings(&self) -> PyResult<Vec<Standing>> {
            let now = clock();
            let all = self.with(|threads| Ok(threads.standings()))?;
            Ok(all.iter().map(|standing| told(standing, now)).collect())
        }

        fn replace(&self, upstreams: Vec<Upstream>) -> PyResult<()> {
            let successors = proxies(upstreams, self.trust.as_ref()).map_err(to_python)?;
            self.with(|threads| {
                threads.replace(successors);
                Ok(())
            })
        }

        fn stop(&self, py: Python<'_>) -> PyResult<()> {
            py.detach(|| {
                self.with(|threads| {
                    threads.stop();
                    Ok(())
                })
            })
        }
    }

    impl Stack {
        fn with<T>(&self, act: impl FnOnce(&mut Threads) -> PyResult<T>) -> PyResult<T> {
            let mut threads = self.threads.lock().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
            act(&mut threads)
        }
    }

    fn told(standing: &crate::standing::Standing, now: Instant) -> Standing {
        let (state, since) = standing.state(now);
        let (address, tally) = (standing.address, standing.tally.snapshot());
        let seconds = (now - since).secs();
        (address.ip().to_string(), address.port(), state.name(), seconds, tally.into_iter().collect())
    }

    fn proxies(upstreams: Vec<Upstream>, trust: Option<&Trust>) -> Result<Vec<Proxy>, Error> {
        upstreams.into_iter().map(|upstream| upstream.proxy(trust)).collect()
    }

    /// Give whom to trust as an https:// proxy; None where there is none.
    fn trust(files: &HashMap<String, RawFd>) -> PyResult<Option<Trust>> {
        let Some(&authorities) = files.get("trust") else { return Ok(None) };
        let identity = files.get("identity").map(|&fd| content(fd)).transpose()?;
        Trust::new(&content(authorities)?, identity.as_deref()).map(Some).map_err(to_python)
    }

    /// Read what is behind a descriptor, which stays the caller's.
    fn content(fd: RawFd) -> PyResult<Vec<u8>> {
        // SAFETY: the descriptor is open, and is not closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        let mut bytes = Vec::new();
        (&*file).take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[pyfunction]
    fn enter_sandbox(ports: Vec<u16>) -> PyResult<Vec<String>> {
        crate::sandbox::enter(&ports).map_err(to_python)
    }

    fn to_python(error: Error) -> PyErr {
        match error {
            Error::Setting(text) => PyValueError::new_err(text),
            other => PyOSError::new_err(other.to_string()),
        }
    }

    #[pymodule]
    fn _tunstack(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add_class::<Stack>()?;
        module.add_function(wrap_pyfunction!(enter_sandbox, module)?)
    }
}
