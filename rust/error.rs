//! What can go wrong in the data plane, named by what failed.
//!
//! Errors of one flow never get here: they end that flow, are counted and noted. These end a thread.

use std::fmt;
use std::io;

/// An error that ends the worker.
#[derive(Debug)]
pub enum Error {
    /// A TUN queue cannot be read, or is gone.
    TunRead(io::Error),
    /// epoll or eventfd refused.
    Wait(io::Error),
    /// Address space for the rings.
    Memory(io::Error),
    /// A numbered step of the sandbox.
    Sandbox(&'static str, io::Error),
    /// A setting that is not one.
    Setting(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TunRead(error) => write!(out, "the TUN cannot be read: {error}"),
            Error::Wait(error) => write!(out, "cannot wait for events: {error}"),
            Error::Memory(error) => write!(out, "no address space for buffers: {error}"),
            Error::Sandbox(step, error) => write!(out, "sandbox: {step}: {error}"),
            Error::Setting(text) => write!(out, "{text}"),
        }
    }
}

impl std::error::Error for Error {}
