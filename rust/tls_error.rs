//! What can go wrong with TLS to a proxy, in words that a person can act on. Pure.

use std::fmt;
use std::io::{self, ErrorKind};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Most names of a certificate that are shown.
const MOST_NAMES: usize = 5;

/// Why there is no TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    pub kind: Kind,
    pub text: String,
}

/// What `up` gives advice for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody that is trusted vouches for the certificate.
    Trust,
    /// The certificate is for others.
    Name,
    /// The certificate's time is over, or has not come.
    Time,
    /// The proxy speaks something else.
    NotTls,
    /// The proxy wants a certificate of ours, or not the one that it got.
    Identity,
    Other,
}

impl Kind {
    /// Give its name, as `up` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Trust => "tls-trust",
            Kind::Name => "tls-name",
            Kind::Time => "tls-time",
            Kind::NotTls => "tls-not",
            Kind::Identity => "tls-identity",
            Kind::Other => "tls",
        }
    }
}

impl TlsError {
    /// Give what `error` means.
    pub fn of(error: &Error) -> TlsError {
        match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::AlertReceived(alert) => of_alert(*alert),
            Error::InvalidMessage(_) => TlsError::not_tls("it does not speak TLS"),
            Error::PeerIncompatible(why) => of_incompatible(why),
            Error::NoCertificatesPresented => TlsError::other("it has no certificate"),
            other => TlsError::other(&printable(&other.to_string())),
        }
    }

    /// Give the error of a proxy that answers in HTTP; None when the bytes are not.
    pub fn of_first_bytes(bytes: &[u8]) -> Option<TlsError> {
        bytes.starts_with(b"HTTP/").then(|| TlsError::not_tls("it speaks plain HTTP at this port"))
    }

    /// The proxy ended the connection within the handshake.
    pub fn hung_up() -> TlsError {
        TlsError::not_tls("it hung up in the TLS handshake")
    }

    /// Anything else.
    pub fn other(text: &str) -> TlsError {
        TlsError { kind: Kind::Other, text: text.to_owned() }
    }

    fn not_tls(text: &str) -> TlsError {
        TlsError { kind: Kind::NotTls, text: text.to_owned() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, error)
    }
}

fn of_certificate(error: &CertificateError) -> TlsError {
    use CertificateError as E;
    let (kind, text) = match error {
        E::UnknownIssuer => (Kind::Trust, "nobody that is trusted here has signed its certificate".to_owned()),
        E::BadSignature => (Kind::Trust, "its certificate is not signed by who it says".to_owned()),
        E::Expired => (Kind::Time, "its certificate has expired".to_owned()),
        E::ExpiredContext { not_after, .. } => (Kind::Time, format!("its certificate expired on {}", date(*not_after))),
        E::NotValidYet => (Kind::Time, "its certificate is not valid yet".to_owned()),
        E::NotValidYetContext { not_before, .. } => (
            Kind::Time,
            format!("its certificate is valid from {} on: is this machine's clock right?", date(*not_before)),
        ),
        E::NotValidForName => (Kind::Name, "its certificate is for another name".to_owned()),
        E::NotValidForNameContext { presented, .. } => (Kind::Name, names(presented)),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            (Kind::Other, "its certificate is not one of a server".to_owned())
        }
        E::Other(other) if printable(&other.to_string()) == "CaUsedAsEndEntity" => {
            let text = "its certificate is one of a certificate authority, and not itself among those that are trusted";
            (Kind::Trust, text.to_owned())
        }
        other => (Kind::Other, format!("its certificate cannot be used: {}", printable(&format!("{other:?}")))),
    };
    TlsError { kind, text }
}

fn names(presented: &[String]) -> String {
    let shown: Vec<String> = presented.iter().take(MOST_NAMES).map(|name| short(name)).collect();
    match presented.len() {
        0 => "its certificate is for no name at all (a subjectAltName is needed, a CN alone does not do)".to_owned(),
        count if count > MOST_NAMES => {
            format!("its certificate is for {} and {} more", shown.join(", "), count - MOST_NAMES)
        }
        _ => format!("its certificate is for {}", shown.join(", ")),
    }
}

/// rustls writes a name as `DnsName("a.example")` and an address as `IpAddress(...)`.
fn short(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    printable(inner.trim_matches('"'))
}

fn of_alert(alert: AlertDescription) -> TlsError {
    use AlertDescription as A;
    let (kind, text) = match alert {
        A::CertificateRequired => (Kind::Identity, "it wants a certificate of this machine".to_owned()),
        A::BadCertificate
        | A::UnknownCA
        | A::CertificateUnknown
        | A::CertificateExpired
        | A::CertificateRevoked
        | A::UnsupportedCertificate
        | A::AccessDenied => (Kind::Identity, format!("it refuses this machine's certificate ({})", alert_name(alert))),
        A::HandshakeFailure => (
            Kind::Identity,
            "it refuses the handshake (handshake_failure): it may want a certificate of this machine, or only methods \
             that are out of use"
                .to_owned(),
        ),
        A::ProtocolVersion => (Kind::Other, "it speaks no TLS newer than 1.1".to_owned()),
        A::UnrecognisedName => (Kind::Name, "it does not know itself by this name (unrecognized_name)".to_owned()),
        other => (Kind::Other, format!("it ended the TLS connection with the alert {}", alert_name(other))),
    };
    TlsError { kind, text }
}

fn alert_name(alert: AlertDescription) -> String {
    alert.as_str().map_or_else(|| format!("{}", u8::from(alert)), str::to_owned)
}

fn of_incompatible(why: &PeerIncompatible) -> TlsError {
    let text = match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "it speaks no TLS newer than 1.1".to_owned()
        }
        other => format!("it offers only methods that are out of use ({})", printable(&format!("{other:?}"))),
    };
    TlsError { kind: Kind::Other, text }
}

/// Keep what is printable ASCII, and not too much of it: some of it comes from the proxy.
fn printable(text: &str) -> String {
    text.chars().take(120).map(|letter| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' }).collect()
}

/// Give the day in the usual form (Gregorian calendar; days from civil, by Howard Hinnant).
fn date(time: UnixTime) -> String {
    let days = (time.as_secs() / 86_400) as i64 + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // the month, from March on
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_are_written_in_the_usual_form() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_478_400, "2026-11-24"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expected);
        }
    }

    #[test]
    fn certificate_of_others_says_for_whom_it_is() {
        let of = |presented: &[&str]| names(&presented.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[r#"DnsName("a.example")"#]), "its certificate is for a.example");
        assert_eq!(of(&[r#"DnsName("a\u{1b}b")"#]), r"its certificate is for a\u{1b}b");
        assert!(of(&[]).contains("no name at all"));
        assert!(of(&["a"; 7]).ends_with("and 2 more"));
    }

    #[test]
    fn what_a_proxy_wants_is_told_apart() {
        let kind = |alert| TlsError::of(&Error::AlertReceived(alert)).kind;
        assert_eq!(kind(AlertDescription::CertificateRequired), Kind::Identity);
        assert_eq!(kind(AlertDescription::UnknownCA), Kind::Identity);
        assert_eq!(kind(AlertDescription::InternalError), Kind::Other);
        assert_eq!(TlsError::of_first_bytes(b"HTTP/1.1 400 Bad Request").map(|error| error.kind), Some(Kind::NotTls));
        assert_eq!(TlsError::of_first_bytes(b"\x15\x03\x01"), None);
    }
}
