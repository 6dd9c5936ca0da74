//! Whom to trust as an https:// proxy, and what to show such a one of ourselves: PEM in, a configuration of rustls out,
//! one for all connections, since it remembers their sessions.
//!
//! The texts come from outside the sandbox, where their form was checked in words for a person (tlsfiles.py); an authority in the
//! system's store that rustls does not like is passed over, as it always is.

use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;
use crate::verifier::Verifier;

/// Sessions remembered: some for each proxy, of which there are few.
const SESSIONS: usize = 64;
/// What is spoken inside (RFC 7301): a proxy that prefers HTTP/2 is not to choose that.
const PROTOCOL: &[u8] = b"http/1.1";

/// See the head of this file.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

/// What a connection to one proxy begins with.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Trust {
    /// Trust these authorities; `identity` is a certificate, those that lead to its authority, and its key.
    pub fn new(authorities: &[u8], identity: Option<&[u8]>) -> Result<Trust, Error> {
        let trusted: Vec<_> = CertificateDer::pem_slice_iter(authorities).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        if roots.is_empty() {
            return Err(setting("there is no certificate authority to trust"));
        }
        let provider = Arc::new(ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let webpki = webpki.build().map_err(setting)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setting)?
            .dangerous() // what is dangerous about a verifier of our own is in verifier.rs
            .with_custom_certificate_verifier(Arc::new(Verifier { webpki, trusted }));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(setting)?;
                let key = PrivateKeyDer::from_pem_slice(pem).map_err(setting)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| setting(format!("the client certificate and its key cannot be used: {error}")))?
            }
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Trust(Arc::new(config)))
    }

    /// Connect to the proxy whose URL has the host `name`, which its certificate must be for.
    pub fn client(&self, name: &str) -> Result<Client, Error> {
        let name = ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| setting(format!("{name:?} cannot be the name in a certificate")))?;
        Ok(Client { config: Arc::clone(&self.0), name })
    }
}

impl Client {
    /// Begin a connection.
    pub fn connection(&self) -> Result<UnbufferedClientConnection, rustls::Error> {
        UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
    }
}

fn setting(why: impl ToString) -> Error {
    Error::Setting(why.to_string())
}
