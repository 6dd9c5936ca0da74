//! DNS messages in a stream: each after its length in two bytes (RFC 1035 §4.2.2, RFC 7766), pure.

/// A stream of messages as it comes in, in pieces of any size.
#[derive(Debug, Default)]
pub struct Framing {
    bytes: Vec<u8>,
    /// Where in `bytes` the next message's length stands.
    at: usize,
}

impl Framing {
    /// Take the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(bytes);
    }

    /// Give the next message that is whole.
    pub fn take(&mut self) -> Option<&[u8]> {
        let (length, rest) = self.bytes[self.at..].split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if rest.len() < length {
            return None;
        }
        let begin = self.at + 2;
        self.at = begin + length;
        Some(&self.bytes[begin..self.at])
    }

    /// Say whether a message is whole.
    pub fn is_ready(&self) -> bool {
        let rest = &self.bytes[self.at..];
        rest.first_chunk::<2>().is_some_and(|length| rest.len() - 2 >= usize::from(u16::from_be_bytes(*length)))
    }

    /// Give how many bytes are kept: those of a message that is not whole, once `take` has given all others.
    pub fn kept(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// Put a message, of at most 65535 bytes, at the end of a stream.
pub fn put(stream: &mut Vec<u8>, message: &[u8]) {
    debug_assert!(message.len() <= usize::from(u16::MAX));
    stream.extend_from_slice(&(message.len() as u16).to_be_bytes());
    stream.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            piece in 1usize..50,
        ) {
            let (mut stream, mut framing, mut found) = (Vec::new(), Framing::default(), Vec::new());
            messages.iter().for_each(|message| put(&mut stream, message));
            for piece in stream.chunks(piece) {
                framing.feed(piece);
                while let Some(message) = framing.take() {
                    found.push(message.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert_eq!(framing.kept(), 0);
        }
    }
}
