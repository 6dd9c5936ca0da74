//! What a TLS connection to a proxy rests upon: the certificate authorities that are trusted, and a certificate of ours.
//!
//! Comes as PEM (RFC 7468) from outside the sandbox, is parsed inside. A proxy whose certificate is itself among those that
//! are trusted needs no authority: it is what `openssl req -x509` makes, and what OpenSSL takes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::error::Error;
use crate::tls::Tls;
use crate::validity::validity;

/// The longest PEM that is read; the authorities of a whole system take a tenth.
const LONGEST: u64 = 4 << 20;

/// Give the configuration that the files `trust` and `identity` make; None without the former.
pub fn of_files(files: &HashMap<String, RawFd>) -> Result<Option<Arc<ClientConfig>>, Error> {
    let Some(&trust) = files.get("trust") else { return Ok(None) };
    let identity = files.get("identity").map(|&fd| read(fd)).transpose()?;
    config(&read(trust)?, identity.as_deref()).map(Some)
}

/// Give what is needed to speak TLS to the proxy that is called `host`.
pub fn for_proxy(config: Option<&Arc<ClientConfig>>, host: &str) -> Result<Tls, Error> {
    let config = config.ok_or_else(|| Error::Setting("there is nothing to trust for TLS".to_owned()))?;
    let tls = Tls::new(Arc::clone(config), host);
    tls.ok_or_else(|| Error::Setting(format!("{host:?} is no name that a certificate can be for")))
}

fn read(fd: RawFd) -> Result<Vec<u8>, Error> {
    // SAFETY: the descriptor is the caller's and open; what is dropped does not close it.
    let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    let mut bytes = Vec::new();
    let result = file.rewind().and_then(|()| (&mut *file).take(LONGEST).read_to_end(&mut bytes));
    result.map_err(|error| Error::Setting(format!("a file of certificates cannot be read: {error}")))?;
    Ok(bytes)
}

/// Give the configuration for all connections, with one memory of sessions to resume.
pub fn config(trust: &[u8], identity: Option<&[u8]>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(provider());
    let trusted = certificates(trust)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        return Err(Error::Setting("no certificate authority to trust could be read".to_owned()));
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let webpki = webpki.build().map_err(|error| Error::Setting(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Setting(error.to_string()))?
        .dangerous() // what is dangerous about a verifier of our own is below
        .with_custom_certificate_verifier(Arc::new(Verifier { webpki, trusted }));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pem) => builder
            .with_client_auth_cert(certificates(pem)?, private_key(pem)?)
            .map_err(|error| Error::Setting(format!("the certificate or key for the proxy cannot be used: {error}")))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The cryptography: AES with keys of 128 bits first, which is the fastest that there is.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
    provider
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Error::Setting("there is no certificate where one should be".to_owned())),
        Err(error) => Err(Error::Setting(format!("a certificate cannot be read: {error}"))),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| Error::Setting(format!("the key of the certificate for the proxy cannot be read: {error}")))
}

/// webpki's judgement, but for certificates that are trusted themselves.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(error) if is_of_the_chain(&error) && self.trusted.iter().any(|trusted| trusted == end_entity) => {
                verify_alone(end_entity, name, now)
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Say whether it is the way to an authority that is amiss: nobody signed it, or it is an authority's own.
fn is_of_the_chain(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            why.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

/// Judge a certificate that is trusted itself: by its name and its time. That the proxy has its key, the handshake shows.
fn verify_alone(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let (not_before, not_after) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    if now.as_secs() < not_before.as_secs() {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now.as_secs() > not_after.as_secs() {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}
