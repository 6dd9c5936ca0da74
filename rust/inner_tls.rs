//! TLS within a tunnel, to a resolver of DNS over HTTPS: bytes of the tunnel in and out, and bytes of the conversation. The
//! tunnel may be within TLS itself, so nothing is received or sent from within a call of tls.rs, which has one buffer.

use std::io;

use crate::tls::{Read, Session};
use crate::trust::Client;

const PIECE: usize = 16 << 10;

/// See the head of this file.
pub struct InnerTls {
    session: Session,
    /// Of the conversation: what is to be sent when it can be.
    plain: Vec<u8>,
}

impl InnerTls {
    /// Begin a handshake; `out` is what the tunnel is to send.
    pub fn begin(client: &Client, out: &mut Vec<u8>) -> io::Result<InnerTls> {
        let mut inner = InnerTls { session: Session::new(client).map_err(io::Error::other)?, plain: Vec::new() };
        inner.receive(&[], out, |_| {})?;
        Ok(inner)
    }

    /// Take bytes of the tunnel, and give `heard` those of the conversation; says whether more may come.
    pub fn receive(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, mut heard: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut piece = [0; PIECE];
        loop {
            let read = if bytes.is_empty() {
                self.session.read(&mut piece)
            } else {
                self.session.read_from(&mut piece, |into| {
                    let taken = into.len().min(bytes.len());
                    into[..taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    Ok(taken)
                })
            };
            self.take_sealed(out);
            match read? {
                Read::Bytes(count, more) => {
                    heard(&piece[..count]);
                    if !more && bytes.is_empty() {
                        break;
                    }
                }
                Read::Nothing if bytes.is_empty() => break,
                Read::Nothing => {}
                Read::End => return Ok(false),
            }
        }
        self.flush(out)?;
        Ok(true)
    }

    /// Say something to the resolver, now or when the handshake is over.
    pub fn send(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.plain.extend_from_slice(bytes);
        self.flush(out)
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.session.is_open() && !self.plain.is_empty() {
            let taken = self.session.write(&self.plain, |_| Ok(0))?;
            self.plain.drain(..taken);
            self.take_sealed(out);
        }
        Ok(())
    }

    fn take_sealed(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.session.to_send());
        self.session.drop_unsent();
    }
}
