//! From when until when a certificate is valid (RFC 5280 §4.1.2.5), for those that webpki does not judge. Pure.

use std::time::Duration;

use rustls::pki_types::UnixTime;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, [0] EXPLICIT; left out for 1.
const VERSION: u8 = 0xa0;

/// Give notBefore and notAfter; None when `certificate` is not one in DER.
pub fn validity(certificate: &[u8]) -> Option<(UnixTime, UnixTime)> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if let Some((_, after)) = expect(VERSION, rest) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(tag, rest)?; // serial number, signature algorithm, issuer
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// Take an element with this tag: its content, and what follows it.
fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(digits, _)| digits.len() <= 3)?;
        length = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Take a time: YYMMDDHHMMSSZ of the years 1950 to 2049, or YYYYMMDDHHMMSSZ.
fn time(bytes: &[u8]) -> Option<(UnixTime, &[u8])> {
    let (tag, text, rest) = element(bytes)?;
    let (year, text) = match tag {
        UTC_TIME => number(text, 2).map(|(year, text)| (if year < 50 { year + 2000 } else { year + 1900 }, text))?,
        GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, text) = number(text, 2)?;
    let (day, text) = number(text, 2)?;
    let (hour, text) = number(text, 2)?;
    let (minute, text) = number(text, 2)?;
    let (second, text) = number(text, 2)?;
    let whole = text == b"Z" && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    let seconds = whole.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)?;
    // what began before 1970 is as good as what began then
    Some((UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))), rest))
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (text, rest) = text.split_at_checked(digits)?;
    let all = text.iter().all(u8::is_ascii_digit);
    all.then(|| (text.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

/// Give the days since 1970-01-01 (Gregorian calendar, with years that begin in March).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        let bytes = [&[tag, text.len() as u8], text.as_bytes()].concat();
        time(&bytes).map(|(time, _)| time.as_secs())
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229000000Z"), Some(951_782_400));
        assert_eq!(seconds(UTC_TIME, "261124010203Z"), Some(1_795_478_400 + 3723));
        assert_eq!(seconds(GENERALIZED_TIME, "20991231235959Z"), Some(4_102_444_799));
        assert_eq!(seconds(GENERALIZED_TIME, "19000101000000Z"), Some(0));
        for wrong in ["20991331235959Z", "2099123123595Z", "20991231235959+", "2099-1-1235959Z"] {
            assert_eq!(seconds(GENERALIZED_TIME, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn certificate_cut_anywhere_has_no_time() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 2, 29);
        parameters.not_after = rcgen::date_time_ymd(2055, 1, 2);
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let (not_before, not_after) = validity(certificate.der()).unwrap();
        assert_eq!((not_before.as_secs(), not_after.as_secs()), (1_582_934_400, 2_682_460_800));
        for cut in 0..certificate.der().len() {
            assert!(validity(&certificate.der()[..cut]).is_none());
        }
    }
}
