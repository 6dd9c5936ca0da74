//! The header fields of a reply, pure (RFC 9110 §5, RFC 9112 §5).
//!
//! Names are compared without case; a line that goes on with a space or a tab belongs to the one before it (obs-fold,
//! RFC 9112 §5.2); a line without a colon is passed over. Values are bytes: a realm need not be ASCII. A lone carriage
//! return or a NUL in one becomes a space (RFC 9110 §5.5), since some values are sent back.

/// The fields of one header section, in their order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields {
    lines: Vec<(String, Vec<u8>)>,
}

impl Fields {
    /// Read what stands behind the first line of `head`.
    pub fn parse(head: &[u8]) -> Fields {
        let mut lines: Vec<(String, Vec<u8>)> = Vec::new();
        for line in head.split(|&byte| byte == b'\n').skip(1) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.first().is_some_and(|&byte| is_space(byte)) {
                if let Some((_, value)) = lines.last_mut() {
                    value.push(b' ');
                    value.extend(sound(line));
                }
            } else if let Some(colon) = line.iter().position(|&byte| byte == b':') {
                let name = String::from_utf8_lossy(trim(&line[..colon])).to_ascii_lowercase();
                lines.push((name, sound(&line[colon + 1..]).collect()));
            }
        }
        Fields { lines }
    }

    /// Give the values of all fields called `name`, which is in small letters.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// Give the elements of a comma-separated list of tokens, over all fields called `name`.
    pub fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.values(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.map(trim).filter(|element| !element.is_empty())
    }

    /// Say whether that list has `token`, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

fn sound(value: &[u8]) -> impl Iterator<Item = u8> {
    trim(value).iter().map(|&byte| if matches!(byte, b'\r' | 0) { b' ' } else { byte })
}

/// Say whether `byte` is a space or a tab.
pub fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Take spaces and tabs away at both ends.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_any_case_and_in_order() {
        let fields = Fields::parse(
            b"HTTP/1.1 407 No: really\r\nProxy-Authenticate: A\r\nX:y\nPROXY-authenticate \t:  B \r\n\r\n",
        );
        let values: Vec<&[u8]> = fields.values("proxy-authenticate").collect();
        assert_eq!(values, [b"A", b"B"]);
        assert_eq!(fields.values("http/1.1 407 no").count(), 0, "the status line is no field");
    }

    #[test]
    fn folded_lines_belong_to_the_one_before() {
        let fields = Fields::parse(b"HTTP/1.1 407 x\r\n lost\r\nno colon\r\nA: b\0\r,\r\n\tc\r\n  d\r\n\r\n");
        assert_eq!(fields.values("a").collect::<Vec<_>>(), [b"b  , c d"]);
    }

    #[test]
    fn list_of_tokens_goes_over_several_fields() {
        let fields = Fields::parse(b"x\r\nConnection: Keep-Alive,, close\r\nConnection:\r\nconnection: te\r\n\r\n");
        assert_eq!(fields.tokens("connection").count(), 3);
        assert!(fields.has_token("connection", "CLOSE") && fields.has_token("connection", "te"));
        assert!(!fields.has_token("connection", "keep"));
    }
}
