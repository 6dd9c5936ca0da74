//! A session and rustls' own server, without a socket between them: bytes are handed over in pieces of any size.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;
use crate::trust::Trust;
use crate::upstream::{Moved, Ready, Upstream};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem(der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der)).into_bytes()
}

/// A server for these names, and those who trust its authority.
fn server(names: &[&str], version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Trust) {
    let issuer = issuer();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (Arc::new(config), Trust::new(&pem(issuer.der()), None).unwrap())
}

/// Both ends, and what is on its way between them.
struct Pair {
    session: Session,
    server: ServerConnection,
    up: Vec<u8>,
    down: Vec<u8>,
    /// What the server has read.
    got: Vec<u8>,
    /// Bytes handed over at a time.
    piece: usize,
}

impl Pair {
    fn new(config: &Arc<ServerConfig>, trust: &Trust, name: &str, piece: usize) -> Pair {
        let session = Session::new(&trust.client(name).unwrap()).unwrap();
        let server = ServerConnection::new(Arc::clone(config)).unwrap();
        Pair { session, server, up: Vec::new(), down: Vec::new(), got: Vec::new(), piece }
    }

    /// Move what is to be sent by either side one piece on.
    fn carry(&mut self) {
        let sent = self.session.to_send().len().min(self.piece);
        self.up.extend_from_slice(&self.session.to_send()[..sent]);
        self.session.was_sent(sent);
        let mut from = &self.up[..self.up.len().min(self.piece)];
        let length = from.len();
        while !from.is_empty() {
            self.server.read_tls(&mut from).unwrap();
            let _ = self.server.process_new_packets();
            let _ = self.server.reader().read_to_end(&mut self.got);
        }
        self.up.drain(..length);
        while self.server.wants_write() {
            self.server.write_tls(&mut self.down).unwrap();
        }
    }

    /// Read as the relay does, into `room` bytes.
    fn read(&mut self, room: usize) -> io::Result<(Read, Vec<u8>)> {
        let mut into = vec![0; room];
        let mut read = self.session.read(&mut into)?;
        if read == Read::Nothing {
            let (down, piece) = (&mut self.down, self.piece);
            read = self.session.read_from(&mut into, |into| {
                let length = down.len().min(piece).min(into.len());
                if length == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                into[..length].copy_from_slice(&down[..length]);
                down.drain(..length);
                Ok(length)
            })?;
        }
        into.truncate(if let Read::Bytes(given, _) = read { given } else { 0 });
        Ok((read, into))
    }

    fn open(&mut self) -> io::Result<()> {
        for _ in 0..100_000 {
            self.carry();
            match self.read(0) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            if self.session.is_open() && !self.server.is_handshaking() {
                return Ok(());
            }
        }
        panic!("no handshake");
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn stream_comes_whole_in_pieces_and_rooms_of_any_size() {
    for version in BOTH {
        let (config, trust) = server(&["proxy.test"], version);
        for (piece, room) in
            [(1, 70_000), (7, 100), (1460, 65_536), (100_000, 5), (100_000, 16_384), (1 << 20, 1 << 20)]
        {
            let mut pair = Pair::new(&config, &trust, "proxy.test", piece);
            pair.open().unwrap();
            let sent = bytes(if piece == 1 { 40_000 } else { 300_000 });
            let (mut written, mut got, mut closed) = (0, Vec::new(), false);
            loop {
                written += pair.server.writer().write(&sent[written..]).unwrap();
                if written == sent.len() && !closed {
                    pair.server.send_close_notify();
                    closed = true;
                }
                pair.carry();
                match pair.read(room) {
                    Ok((Read::End, _)) => break,
                    Ok((_, bytes)) => got.extend(bytes),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert!(got == sent, "{version:?}, pieces of {piece}, room for {room}: {} of {}", got.len(), sent.len());
            assert!(pair.session.incoming.capacity() == 0 || piece < 20_000, "an idle session holds memory");
        }
    }
}

#[test]
fn what_the_kernel_does_not_take_is_sent_first_and_nothing_else_is_taken_meanwhile() {
    for version in BOTH {
        let (config, trust) = server(&["proxy.test"], version);
        let mut pair = Pair::new(&config, &trust, "proxy.test", 1 << 20);
        pair.open().unwrap();
        let sent = bytes(1_000_000);
        let mut taken = 0;
        while pair.got.len() < sent.len() {
            match pair.session.write(&sent[taken..], |records| {
                pair.up.extend_from_slice(&records[..records.len().min(1000)]);
                Ok(records.len().min(1000))
            }) {
                Ok(bytes) => {
                    assert!(bytes <= PIECE && pair.session.to_send().len() < PIECE + 1000);
                    taken += bytes;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            pair.carry();
        }
        assert!(pair.got == sent);
    }
}

#[test]
fn second_connection_resumes_the_session_of_the_first() {
    for version in BOTH {
        let (config, trust) = server(&["proxy.test"], version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut pair = Pair::new(&config, &trust, "proxy.test", 1 << 20);
            pair.open().unwrap();
            while pair.read(10).is_ok() {} // tickets
            assert_eq!(pair.server.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

#[test]
fn what_was_decrypted_before_says_nothing_of_what_the_kernel_has() {
    let (config, trust) = server(&["proxy.test"], &TLS13);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = Upstream::dial(listener.local_addr().unwrap()).unwrap();
    let mut upstream = dialled.with_tls(&trust.client("proxy.test").unwrap()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    let ready = || Ready { readable: true, writable: true, ..Ready::default() };
    while !upstream.shake_hands(&mut ready()).unwrap() {
        if server.is_handshaking() {
            server.read_tls(&mut socket).unwrap();
            server.process_new_packets().unwrap();
        }
        while server.wants_write() {
            server.write_tls(&mut socket).unwrap();
        }
    }
    while server.is_handshaking() {
        server.read_tls(&mut socket).unwrap();
        server.process_new_packets().unwrap();
    }
    server.writer().write_all(&[1; 1000]).unwrap();
    server.write_tls(&mut socket).unwrap();
    let mut bytes = [0; 600];
    let mut receive = || loop {
        match upstream.receive(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    };
    assert_eq!(receive(), Moved { bytes: 600, more: true });
    assert_eq!(receive(), Moved { bytes: 400, more: true }, "nobody has asked the kernel");
}
