//! The trial of `up`: each proxy is asked for a tunnel, by the code that carries connections, before anything is changed.
//!
//! What counts is whether the proxy can be spoken to and takes the credentials; whether it likes the target does not.

use crate::refusal::Refusal;

/// What came of asking one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its index.
    pub proxy: usize,
    /// `ok`, or the kind of the refusal.
    pub kind: &'static str,
    /// For a person; empty when it is fine.
    pub text: String,
}

impl Outcome {
    /// The proxy said 2xx.
    pub fn fine(proxy: usize) -> Outcome {
        Outcome { proxy, kind: "ok", text: String::new() }
    }

    /// The proxy refused: a status other than that of wrong credentials is as good as a 2xx here.
    pub fn of(proxy: usize, refusal: &Refusal, text: String) -> Outcome {
        match refusal {
            Refusal::Status(401 | 407, _) => Outcome { proxy, kind: refusal.kind(), text },
            Refusal::Status(..) => Outcome::fine(proxy),
            Refusal::Tls(error) => Outcome { proxy, kind: refusal.kind(), text: error.text.clone() },
            _ => Outcome { proxy, kind: refusal.kind(), text },
        }
    }
}
