//! Load for benchmarks and tests.
//!
//!     netload proxy ADDRESS:PORT [--processes N] [--delay-ms N] [--delay-from PORT]
//!     netload origin ADDRESS:PORT [--ports N]
//!     netload far ADDRESS:PORT TARGET:PORT [--delay-ms N]
//!     netload load u|d|c|r|i ADDRESS:PORT [--via ADDRESS:PORT] [--clients N] [--seconds S] [--count N] [--ports N] [--hold]
//!         [--gbit-s N]
//!
//! The proxy speaks HTTP CONNECT and SOCKS5; --delay-ms holds back its answers for targets of ports from --delay-from on.
//! far is a long way to the target: each byte is --delay-ms on its way, in each direction.
//! --gbit-s is the most that an upload or download moves.
//! u upload, d download, c connect, one byte, close; r request and response of 64 bytes; i open and stay idle.

mod far;
mod load;
mod net;
mod origin;
mod proxy;
mod request;

use std::time::Duration;

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let number = |name: &str, otherwise: f64| option(name).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let address = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    let delay = Duration::from_secs_f64(number("--delay-ms", 0.0) / 1000.0);
    raise_descriptor_limit();
    match (words.first().map(String::as_str), address(1), address(2)) {
        (Some("proxy"), Some(at), _) => {
            for _ in 1..number("--processes", 1.0) as usize {
                if unsafe { libc::fork() } == 0 {
                    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                    break;
                }
            }
            proxy::run(at, proxy::Delay { time: delay, from_port: number("--delay-from", 0.0) as u16 })
        }
        (Some("origin"), Some(at), _) => origin::run(at, number("--ports", 1.0) as u16),
        (Some("far"), Some(at), Some(target)) => far::run(at, target, delay),
        (Some("load"), _, Some(target)) if words[1].len() == 1 => load::run(load::Plan {
            wish: words[1].as_bytes()[0],
            target,
            via: option("--via").and_then(|word| word.parse().ok()),
            clients: number("--clients", 1.0) as usize,
            seconds: number("--seconds", 5.0),
            ports: number("--ports", 1.0) as u16,
            count: number("--count", 0.0) as usize,
            gbit_s: number("--gbit-s", f64::INFINITY),
            hold: words.iter().any(|word| word == "--hold"),
        }),
        _ => Err(std::io::Error::other("usage: see the head of bench/src/main.rs")),
    }
}

fn raise_descriptor_limit() {
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}
