//! Whether a proxy's certificate is to be believed: webpki's judgement, but for certificates that are trusted themselves.
//!
//! Such a one needs no authority: it is what `openssl req -x509` makes (an authority's certificate, by its own word, which
//! webpki takes for no server's), and what OpenSSL takes. Its name and its time count all the same (RFC 5280, RFC 9525).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};

use crate::validity::validity;

/// See the head of this file.
#[derive(Debug)]
pub struct Verifier {
    pub webpki: Arc<WebPkiServerVerifier>,
    pub trusted: Vec<CertificateDer<'static>>,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use rustls::crypto::ring;

    use super::*;

    fn made(name: &str) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn judged(trusted: &CertificateDer<'static>, shown: &CertificateDer<'_>, name: &str, year: u64) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = Verifier { webpki, trusted: vec![trusted.clone()] };
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(shown, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn what_openssl_makes_by_itself_is_believed_by_its_name_and_in_its_time() {
        let ours = made("proxy.example");
        assert!(judged(&ours, &ours, "proxy.example", 2026));
        assert!(!judged(&ours, &ours, "other.example", 2026));
        assert!(!judged(&ours, &ours, "proxy.example", 2019));
        assert!(!judged(&ours, &ours, "proxy.example", 2031));
    }

    #[test]
    fn another_one_of_the_same_name_is_not() {
        assert!(!judged(&made("proxy.example"), &made("proxy.example"), "proxy.example", 2026));
    }
}
