//! TLS in front of a test's proxy, as haproxy or stunnel would do it: what is inside goes to the proxy in plain text, and
//! ends, half-ends and resets go both ways. So a test with a plain proxy is one with TLS, too. Nothing waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use _tunstack::trust::{Client, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const NAME: &str = "proxy.test";

pub struct Front {
    pub listener: TcpListener,
    behind: SocketAddr,
    config: Arc<ServerConfig>,
    /// What the stack is told of it.
    pub client: Client,
    /// Whether it ends with close_notify, or just with a FIN, as many do.
    pub polite: bool,
    /// Whether it takes anything at all from the stack.
    pub listens: bool,
    pub handshakes: Vec<HandshakeKind>,
    talks: Vec<Talk>,
}

/// One connection: outside, inside, and what has come by the one and not gone by the other.
struct Talk {
    outside: TcpStream,
    inside: TcpStream,
    tls: ServerConnection,
    inward: Vec<u8>,
    outward_ended: bool,
    inward_ended: bool,
    counted: bool,
}

impl Front {
    pub fn new(version: &'static SupportedProtocolVersion, behind: SocketAddr) -> Front {
        let (config, client) = certified(version);
        let listener = crate::world::listener();
        let (talks, handshakes) = (Vec::new(), Vec::new());
        Front { listener, behind, config, client, polite: true, listens: true, handshakes, talks }
    }

    /// Move what can be moved.
    pub fn pump(&mut self) {
        while let Ok((outside, _)) = self.listener.accept() {
            let inside = TcpStream::connect(self.behind).unwrap();
            for stream in [&outside, &inside] {
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
            }
            let tls = ServerConnection::new(Arc::clone(&self.config)).unwrap();
            let talk = Talk {
                outside,
                inside,
                tls,
                inward: Vec::new(),
                outward_ended: false,
                inward_ended: false,
                counted: false,
            };
            self.talks.push(talk);
        }
        let (polite, listens, handshakes) = (self.polite, self.listens, &mut self.handshakes);
        self.talks.retain_mut(|talk| {
            let goes_on = talk.pump(polite, listens);
            if !talk.counted && !talk.tls.is_handshaking() {
                talk.counted = true;
                handshakes.push(talk.tls.handshake_kind().unwrap());
            }
            goes_on
        });
    }
}

impl Talk {
    fn pump(&mut self, polite: bool, listens: bool) -> bool {
        let result = self.outward(polite).and_then(|()| if listens { self.inward() } else { Ok(()) });
        if result.is_err() {
            for stream in [&self.outside, &self.inside] {
                reset_at_close(stream);
            }
        }
        result.is_ok() && !(self.outward_ended && self.inward_ended && !self.tls.wants_write())
    }

    fn outward(&mut self, polite: bool) -> Result<(), ErrorKind> {
        loop {
            while self.tls.wants_write() {
                match later(self.tls.write_tls(&mut self.outside))? {
                    Some(_) => {}
                    None => return Ok(()),
                }
            }
            if self.tls.is_handshaking() || self.outward_ended {
                return Ok(());
            }
            let mut buffer = [0; 40_000];
            match later(self.inside.read(&mut buffer))? {
                None => return Ok(()),
                Some(0) => {
                    self.outward_ended = true;
                    if polite {
                        self.tls.send_close_notify();
                        let _ = self.tls.write_tls(&mut self.outside);
                    }
                    let _ = self.outside.shutdown(Shutdown::Write);
                }
                Some(length) => self.tls.writer().write_all(&buffer[..length]).unwrap(),
            }
        }
    }

    fn inward(&mut self) -> Result<(), ErrorKind> {
        loop {
            while !self.inward.is_empty() {
                match later(self.inside.write(&self.inward))? {
                    Some(sent) => drop(self.inward.drain(..sent)),
                    None => return Ok(()),
                }
            }
            let mut buffer = [0; 40_000];
            match self.tls.reader().read(&mut buffer) {
                Ok(0) => {
                    self.end_inward(); // close_notify
                    return Ok(());
                }
                Ok(length) => {
                    self.inward.extend_from_slice(&buffer[..length]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    self.end_inward();
                    return Ok(());
                }
                Err(_) => {}
            }
            match later(self.tls.read_tls(&mut self.outside))? {
                None => return Ok(()),
                Some(0) if self.tls.is_handshaking() => return Err(ErrorKind::UnexpectedEof),
                Some(_) => {}
            }
            if self.tls.process_new_packets().is_err() {
                let _ = self.tls.write_tls(&mut self.outside);
                return Err(ErrorKind::InvalidData);
            }
        }
    }

    fn end_inward(&mut self) {
        if !self.inward_ended {
            self.inward_ended = true;
            let _ = self.inside.shutdown(Shutdown::Write);
        }
    }
}

fn later(result: std::io::Result<usize>) -> Result<Option<usize>, ErrorKind> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.kind()),
    }
}

fn reset_at_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is valid for the call.
    unsafe {
        let length = size_of::<libc::linger>() as libc::socklen_t;
        let value = (&raw const linger).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, length);
    }
}

fn certified(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Client) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let authority = STANDARD.encode(issuer.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n");
    (Arc::new(config), Trust::new(pem.as_bytes(), None).unwrap().client(NAME).unwrap())
}
