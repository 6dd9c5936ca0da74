//! Why there is no TLS with a proxy, in words for a person: what is wrong, and what to do where that can be told.

use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

const NOT_TLS: &str = "does not speak TLS on that port; is it an http:// proxy?";
/// Most names of a certificate that are shown.
const NAMES: usize = 8;

/// Say what TLS has to do with `error`; None where it is an error of the socket.
pub fn words(error: &io::Error) -> Option<String> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(of_tls)
}

/// Say what the end of a connection in the handshake means.
pub fn of_end() -> String {
    "closed the connection during the TLS handshake; is it an http:// proxy?".to_owned()
}

fn of_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("shows a certificate that {}", of_certificate(error)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
        | Error::InappropriateMessage { .. } => NOT_TLS.to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "speaks no TLS newer than 1.1, which is not safe".to_owned(),
        other => format!("and TLS do not get on: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            "wants a client certificate; give --proxy-cert and --proxy-key".to_owned()
        }
        Alert::HandshakeFailure => {
            "refuses the TLS handshake: no cipher in common, or it wants a client certificate (--proxy-cert)".to_owned()
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => {
            format!("does not accept our client certificate ({})", alert_name(alert))
        }
        Alert::UnrecognisedName => "does not know the host name in its URL; is it the right one?".to_owned(),
        Alert::ProtocolVersion => "speaks neither TLS 1.2 nor 1.3".to_owned(),
        other => format!("ended TLS with the alert {}", alert_name(other)),
    }
}

fn alert_name(alert: AlertDescription) -> String {
    alert.as_str().map_or_else(|| format!("{}", u8::from(alert)), str::to_owned)
}

fn of_certificate(error: &CertificateError) -> String {
    use CertificateError as Wrong;
    match error {
        Wrong::Expired => "has expired".to_owned(),
        Wrong::ExpiredContext { time, not_after } => {
            format!("expired {} ago; or is the clock of this machine wrong?", span(since(*time, *not_after)))
        }
        Wrong::NotValidYet => "is not valid yet; or is the clock of this machine wrong?".to_owned(),
        Wrong::NotValidYetContext { time, not_before } => {
            format!("is valid only in {}; or is the clock of this machine wrong?", span(since(*not_before, *time)))
        }
        Wrong::UnknownIssuer => {
            "no authority that is trusted here has issued; give that authority's certificate with --proxy-ca".to_owned()
        }
        Wrong::BadSignature => {
            "an authority has issued that only has the name of one that is trusted here (made anew, perhaps); give its \
             certificate of now with --proxy-ca"
                .to_owned()
        }
        Wrong::NotValidForNameContext { expected, presented } => {
            let names = names(presented);
            format!("is not for {}, but for {names}; use a name of these in the URL", expected.to_str())
        }
        Wrong::NotValidForName => "is for another name than the one in its URL".to_owned(),
        Wrong::Revoked => "was revoked".to_owned(),
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => "is not one for a server".to_owned(),
        Wrong::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "nobody who is trusted here has issued; if it is the right one, give it itself with --proxy-ca".to_owned()
        }
        other => format!("cannot be used: {other}"),
    }
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all (names count only as a subjectAltName)".to_owned();
    }
    let plain = |name: &String| match name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")")) {
        Some(name) => name.to_owned(),
        None => name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')')).to_owned(),
    };
    let mut shown = presented.iter().take(NAMES).map(plain).collect::<Vec<_>>().join(", ");
    if presented.len() > NAMES {
        shown.push_str(&format!(" and {} more", presented.len() - NAMES));
    }
    shown.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

fn since(later: UnixTime, earlier: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}

fn span(duration: Duration) -> String {
    let (seconds, unit) = match duration.as_secs() {
        ..7200 => (60, "minutes"),
        7200..172_800 => (3600, "hours"),
        _ => (86400, "days"),
    };
    format!("{} {unit}", duration.as_secs() / seconds)
}
