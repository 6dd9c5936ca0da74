//! proxyvpn's data plane: TUN packets in, HTTP CONNECT out. This file is the door to Python, and only that: the only
//! `use pyo3`. docs/architecture.md tells how the rooms hang together.

pub mod addresses;
pub mod attempt;
pub mod cache;
pub mod connect;
pub mod counted;
pub mod device;
pub mod dns;
pub mod error;
pub mod flow;
pub mod framing;
pub mod latency;
pub mod link;
pub mod lookups;
pub mod names;
pub mod names_file;
pub mod packet;
pub mod phase;
pub mod pool;
pub mod refusal;
pub mod relay;
pub mod reply;
pub mod rings;
pub mod sandbox;
pub mod shared;
pub mod spin;
pub mod stack;
pub mod stats;
pub mod threads;
pub mod timer;
pub mod upstream;
pub mod worker;

#[cfg(feature = "python")]
mod python {
    use std::os::fd::{AsRawFd, RawFd};
    use std::sync::Mutex;

    use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
    use pyo3::prelude::*;
    use pyo3::types::{IntoPyDict, PyDict};

    use crate::error::Error;
    use crate::shared::Proxy;
    use crate::threads::{Threads, proxy};

    /// See _tunstack.pyi.
    #[pyclass]
    struct Stack {
        threads: Mutex<Threads>,
    }

    #[pymethods]
    impl Stack {
        #[new]
        fn new(queues: Vec<RawFd>, upstreams: Vec<(String, u16, Vec<u8>)>) -> PyResult<Stack> {
            let threads = Threads::start(&queues, &proxies(&upstreams)?).map_err(to_python)?;
            Ok(Stack { threads: Mutex::new(threads) })
        }

        fn fileno(&self) -> PyResult<RawFd> {
            self.with(|threads| Ok(threads.signal().as_raw_fd()))
        }

        fn notes(&self) -> PyResult<Vec<String>> {
            self.with(|threads| threads.notes().map_err(PyRuntimeError::new_err))
        }

        fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
            self.with(|threads| threads.stats().snapshot().into_py_dict(py))
        }

        fn replace(&self, upstreams: Vec<(String, u16, Vec<u8>)>) -> PyResult<()> {
            let successors = proxies(&upstreams)?;
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

    fn proxies(upstreams: &[(String, u16, Vec<u8>)]) -> PyResult<Vec<Proxy>> {
        let made = upstreams.iter().map(|(address, port, authorization)| proxy(address, *port, authorization));
        made.collect::<Result<_, Error>>().map_err(to_python)
    }

    #[pyfunction]
    fn enter_sandbox(ports: Vec<u16>) -> PyResult<Vec<String>> {
        crate::sandbox::enter(&ports).map_err(to_python)
    }

    fn to_python(error: Error) -> PyErr {
        match error {
            Error::Upstream(text) => PyValueError::new_err(text),
            other => PyOSError::new_err(other.to_string()),
        }
    }

    #[pymodule]
    fn _tunstack(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add_class::<Stack>()?;
        module.add_function(wrap_pyfunction!(enter_sandbox, module)?)
    }
}
