//! Base64 in every form that forwarders write: padded or not, of either alphabet.

use ::base64::Engine as _;
use ::base64::alphabet::STANDARD;
use ::base64::engine::general_purpose::GeneralPurpose;
use ::base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

const EITHER_PADDING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes standard or URL-safe base64, padded or not.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, ::base64::DecodeError> {
    if text.contains(['-', '_']) {
        EITHER_PADDING.decode(text.replace('-', "+").replace('_', "/"))
    } else {
        EITHER_PADDING.decode(text)
    }
}

/// Encodes as forwarders expect it: standard alphabet, padded.
pub(super) fn encode(bytes: &[u8]) -> String {
    EITHER_PADDING.encode(bytes)
}
