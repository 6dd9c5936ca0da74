//! A certificate authority and TLS servers for tests.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use _tunstack::trust::{Client, Trust};
use _tunstack::upstream::{Ready, Upstream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

pub const NAME: &str = "proxy.example";
pub const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub struct Identity {
    pub der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(parameters, key), der }
    }

    pub fn pem(&self) -> Vec<u8> {
        pem("CERTIFICATE", &self.der)
    }

    /// Sign a certificate for `names`, valid in these years.
    pub fn sign(&self, names: &[&str], years: (i32, i32)) -> Identity {
        let parameters = parameters(names, years);
        let key = KeyPair::generate().unwrap();
        Identity { der: parameters.signed_by(&key, &self.issuer).unwrap().der().clone(), key }
    }

    /// Give a server whose certificate is for NAME; with `asks`, it wants one of a client that this authority signed.
    pub fn server(&self, version: &'static SupportedProtocolVersion, asks: bool) -> Arc<ServerConfig> {
        let verifier = asks.then(|| self.der.clone());
        server(&self.sign(&[NAME], (2020, 2099)), version, verifier)
    }
}

impl Identity {
    /// Sign a certificate by itself, as an authority or as what it is.
    pub fn alone(names: &[&str], authority: bool, years: (i32, i32)) -> Identity {
        let mut parameters = parameters(names, years);
        if authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        Identity { der: parameters.self_signed(&key).unwrap().der().clone(), key }
    }

    pub fn pem(&self) -> Vec<u8> {
        [pem("CERTIFICATE", &self.der), pem("PRIVATE KEY", self.key.serialized_der())].concat()
    }
}

fn parameters(names: &[&str], (from, until): (i32, i32)) -> CertificateParams {
    let mut parameters = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    parameters
}

fn pem(kind: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der)).into_bytes()
}

pub fn server(
    identity: &Identity,
    version: &'static SupportedProtocolVersion,
    asks: Option<CertificateDer<'static>>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(identity.key.serialized_der().to_vec()).unwrap();
    Arc::new(builder.with_single_cert(vec![identity.der.clone()], key).unwrap())
}

/// What a client needs that trusts what is in `pem`, for a proxy called `host`.
pub fn trusting(pem: &[u8], identity: Option<&[u8]>, host: &str) -> Client {
    Trust::new(pem, identity).unwrap().client(host).unwrap()
}

/// The proxy's end of a TLS connection; nothing waits.
pub struct Peer {
    pub socket: TcpStream,
    pub tls: ServerConnection,
    heard: Vec<u8>,
}

impl Peer {
    pub fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) -> Peer {
        let (socket, _) = listener.accept().unwrap();
        Peer::of(socket, config)
    }

    pub fn of(socket: TcpStream, config: &Arc<ServerConfig>) -> Peer {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
        tls.set_buffer_limit(None);
        Peer { socket, tls, heard: Vec::new() }
    }

    /// Send what there is to send, and take what has come; says whether the client's TCP has ended.
    pub fn pump(&mut self) -> bool {
        loop {
            self.flush();
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
                Err(error) => panic!("{error}"),
            }
            if self.tls.process_new_packets().is_err() {
                self.flush();
                return true;
            }
            // WouldBlock, or an end without close_notify, comes after all that there is
            let _ = self.tls.reader().read_to_end(&mut self.heard);
        }
    }

    pub fn flush(&mut self) {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return,
            }
        }
    }

    /// Give what has come and was not given yet.
    pub fn heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush();
    }
}

/// Both ends of a connection on which the handshake is complete, or its error on our side.
pub fn connect(client: &Client, config: &Arc<ServerConfig>) -> io::Result<(Upstream, Peer)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut upstream = Upstream::dial(listener.local_addr().unwrap())?.with_tls(client)?;
    let mut peer = Peer::accept(&listener, config);
    for _ in 0..100_000 {
        // as if every event came at once
        let mut ready = Ready { readable: true, writable: true, ..Ready::default() };
        let established = upstream.shake_hands(&mut ready)?;
        peer.pump();
        if established && !peer.tls.is_handshaking() {
            return Ok((upstream, peer));
        }
        std::thread::yield_now();
    }
    panic!("the handshake never ends");
}
