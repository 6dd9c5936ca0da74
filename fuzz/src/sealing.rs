//! A proxy that has got through a TLS 1.3 handshake and then seals whatever it likes: rustls' server makes the keys, the
//! records are made here (RFC 8446 §5.2).

use std::sync::{Arc, LazyLock};

use _tunstack::tls::Session;
use _tunstack::trust::{Client, Trust};
use rcgen::{CertificateParams, KeyPair};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::ring as provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection};

pub const DATA: u8 = 23;
const NAME: &str = "proxy.example";

/// A server, and a client that trusts it.
static BOTH: LazyLock<(Arc<ServerConfig>, Client)> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![NAME.to_owned()]).and_then(|params| params.self_signed(&key));
    let certificate = certificate.expect("a certificate");
    let trust = Trust::new(certificate.pem().as_bytes(), None).expect("trust");
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("a server");
    (config.enable_secret_extraction, config.send_tls13_tickets) = (true, 0);
    (Arc::new(config), trust.client(NAME).expect("a name"))
});

/// Begin a session that has said nothing yet.
pub fn session() -> Session {
    Session::new(&BOTH.1).expect("a session")
}

/// See the head of this file.
pub struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// Give a session whose handshake is over, and the proxy's end of it.
pub fn opened() -> (Session, Sealer) {
    let (mut session, mut server) = (session(), ServerConnection::new(Arc::clone(&BOTH.0)).expect("a server"));
    session.read(&mut []).expect("a first message");
    while !session.is_open() || server.is_handshaking() {
        let mut said = session.to_send();
        let length = said.len();
        while !said.is_empty() {
            server.read_tls(&mut said).expect("room");
            server.process_new_packets().expect("a sane client");
        }
        session.was_sent(length);
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).expect("memory");
        }
        let _ = session.read_from(&mut [], |into| {
            into[..answer.len()].copy_from_slice(&answer);
            Ok(answer.len())
        });
    }
    let (sequence, secrets) = server.dangerous_extract_secrets().expect("secrets").tx;
    let (algorithm, key, iv) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => unreachable!("rustls has three"),
    };
    let iv = iv.as_ref().try_into().expect("twelve bytes");
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("its length"));
    (session, Sealer { key, iv, sequence })
}

impl Sealer {
    /// Give a record of this kind, with so many zeroes behind its content.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let length = (inner.len() + self.key.algorithm().tag_len()) as u16;
        let head = [DATA, 3, 3, (length >> 8) as u8, length as u8];
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(head), &mut inner).expect("not too long");
        [&head[..], &inner].concat()
    }
}
