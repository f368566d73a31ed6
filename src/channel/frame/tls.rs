//! The TLS block of a request frame: the result of the connection's handshake.
//!
//! | size | field |
//! |---|---|
//! | 2 | protocol version (RFC 8446 §4.2.1): 0x0303 or 0x0304 |
//! | 2 | cipher suite (RFC 8446 appendix B.4) |
//! | 2 + n | server name that the client sent (RFC 6066 §3); empty: none |
//! | 2 + n | certificate of the server, PEM |
//! | 1 | 1: a client certificate follows, 0: nothing follows |
//! | 2 + n | subject of the client certificate (RFC 4514) |
//! | 2 + n | issuer of the client certificate (RFC 4514) |
//! | 2 + n | serial number of the client certificate, hexadecimal |
//! | 2 + n, 2 + n | start and end of the client certificate's validity, as OpenSSL prints them |
//! | 2 + n, … | the client's chain, PEM, beginning with the client certificate; to the end |

use super::field::TooLong;
use super::reader::Reader;
use crate::ProtocolError;

/// The TLS session of a request's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInfo<'a> {
    /// Protocol version: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub version: u16,
    /// Cipher suite, as numbered by IANA.
    pub cipher_suite: u16,
    /// The host that the client asked for (SNI); empty if it named none.
    pub server_name: &'a str,
    /// The certificate that the server presented, PEM.
    pub server_cert: &'a str,
    /// The client's verified certificate; `None` if the client has none.
    pub client: Option<ClientCert<'a>>,
}

/// A client's certificate, as texts for the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCert<'a> {
    /// Distinguished name of the subject (RFC 4514).
    pub subject: &'a str,
    /// Distinguished name of the issuer (RFC 4514).
    pub issuer: &'a str,
    /// Serial number, upper-case hexadecimal.
    pub serial: &'a str,
    /// Start of the certificate's validity: `Nov  9 08:00:00 2026 GMT`.
    pub not_before: &'a str,
    /// End of the certificate's validity.
    pub not_after: &'a str,
    /// The client's chain in encoded form, which [`ClientCert::chain`] reads. Set by decoding;
    /// ignored by encoding, which takes the chain as an argument.
    pub encoded_chain: &'a [u8],
}

impl<'a> ClientCert<'a> {
    /// Iterates over the chain that the client sent, as PEM texts, beginning with the client's own
    /// certificate.
    pub fn chain(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader(self.encoded_chain);
        // The chain was checked when the block was decoded.
        std::iter::from_fn(move || short_text(&mut reader).ok())
    }
}

impl<'a> TlsInfo<'a> {
    /// Encodes the block. `chain` is the client's chain; `encoded_chain` of self is ignored.
    ///
    /// # Errors
    /// A part is longer than 65,535 bytes.
    pub fn encode(&self, chain: &[&str]) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.cipher_suite.to_le_bytes());
        put_short(self.server_name, &mut out)?;
        put_short(self.server_cert, &mut out)?;
        out.push(u8::from(self.client.is_some()));
        if let Some(client) = &self.client {
            let ClientCert { subject, issuer, serial, not_before, not_after, .. } = *client;
            for text in [subject, issuer, serial, not_before, not_after].iter().chain(chain) {
                put_short(text, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Decodes a block.
    ///
    /// # Errors
    /// A length is impossible, or a text is not UTF-8.
    pub fn decode(block: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(block);
        let (version, cipher_suite) = (reader.u16()?, reader.u16()?);
        let server_name = short_text(&mut reader)?;
        let server_cert = short_text(&mut reader)?;
        let client = match reader.u8()? {
            0 => None,
            1 => Some(ClientCert {
                subject: short_text(&mut reader)?,
                issuer: short_text(&mut reader)?,
                serial: short_text(&mut reader)?,
                not_before: short_text(&mut reader)?,
                not_after: short_text(&mut reader)?,
                encoded_chain: std::mem::take(&mut reader.0),
            }),
            _ => return Err(ProtocolError::Frame("unknown kind of client certificate")),
        };
        if !reader.0.is_empty() {
            return Err(ProtocolError::Frame("bytes after the TLS block"));
        }
        let mut chain = Reader(client.map(|client| client.encoded_chain).unwrap_or_default());
        while !chain.0.is_empty() {
            short_text(&mut chain)?;
        }
        Ok(Self { version, cipher_suite, server_name, server_cert, client })
    }
}

/// Appends `len u16` and the text.
fn put_short(text: &str, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let len = super::field::u16_len("part of the TLS block", text.len())?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn short_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ProtocolError> {
    let len = reader.u16()?;
    std::str::from_utf8(reader.bytes(len.into())?).map_err(|_| ProtocolError::Frame("text is not UTF-8"))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    const CLIENT: ClientCert<'static> = ClientCert {
        subject: "CN=Zoë,O=Example",
        issuer: "CN=Authority",
        serial: "0A1B",
        not_before: "Nov  9 08:00:00 2026 GMT",
        not_after: "Nov  9 08:00:00 2027 GMT",
        encoded_chain: b"",
    };

    const INFO: TlsInfo<'static> = TlsInfo {
        version: 0x0304,
        cipher_suite: 0x1301,
        server_name: "example.org",
        server_cert: "server",
        client: Some(CLIENT),
    };

    #[test]
    fn tls_block_survives_encoding_and_decoding() {
        let chain = ["leaf", "intermediate"];
        let block = INFO.encode(&chain).unwrap();
        let decoded = TlsInfo::decode(&block).unwrap();
        let client = decoded.client.unwrap();
        assert_eq!(client.chain().collect::<Vec<_>>(), chain);
        let without_chain = ClientCert { encoded_chain: b"", ..client };
        assert_eq!(TlsInfo { client: Some(without_chain), ..decoded }, INFO);
        let anonymous = TlsInfo { client: None, ..INFO };
        assert_eq!(TlsInfo::decode(&anonymous.encode(&[]).unwrap()).unwrap(), anonymous);
    }

    #[test]
    fn truncated_tls_block_is_an_error() {
        let block = INFO.encode(&["leaf"]).unwrap();
        let without_chain = block.len() - 6;
        for len in (0..block.len()).filter(|len| *len != without_chain) {
            assert!(TlsInfo::decode(&block[..len]).is_err(), "{len}");
        }
        let anonymous = TlsInfo { client: None, ..INFO }.encode(&[]).unwrap();
        assert!(TlsInfo::decode(&[&*anonymous, b"x"].concat()).is_err());
    }
}
