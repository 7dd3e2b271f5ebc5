//! The envelope of a message: the mesh it belongs to, and a versioned record.

use mesh_proto::MeshId;
use mesh_proto::codec::{self, CodecError, Kind};
use mesh_proto::rpc::Envelope;
use serde::{Serialize, de::DeserializeOwned};

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// From another mesh.
    #[error("a message of mesh {theirs:?} reached mesh {ours}; meshes do not talk to each other")]
    OtherMesh {
        /// Its mesh.
        theirs: String,
        /// Our mesh.
        ours: MeshId,
    },
    /// Not a record that this build reads.
    #[error("the message does not decode")]
    Codec(#[source] CodecError),
}

impl From<EnvelopeError> for tonic::Status {
    fn from(error: EnvelopeError) -> Self {
        match &error {
            EnvelopeError::OtherMesh { .. } => Self::permission_denied(error.to_string()),
            EnvelopeError::Codec(source) => Self::invalid_argument(format!("{error}: {source}")),
        }
    }
}

/// Packs a message.
///
/// # Errors
/// [`EnvelopeError::Codec`] if the value has no encoding.
pub fn seal<T: Serialize>(mesh: &MeshId, value: &T) -> Result<Envelope, EnvelopeError> {
    let body = codec::encode(Kind::Message, value).map_err(EnvelopeError::Codec)?;
    Ok(Envelope { mesh: mesh.as_str().to_owned(), body })
}

/// Unpacks a message, and refuses one of another mesh.
///
/// # Errors
/// [`EnvelopeError`].
pub fn open<T: DeserializeOwned>(mesh: &MeshId, envelope: &Envelope) -> Result<T, EnvelopeError> {
    if envelope.mesh != mesh.as_str() {
        return Err(EnvelopeError::OtherMesh { theirs: envelope.mesh.clone(), ours: mesh.clone() });
    }
    codec::decode(Kind::Message, &envelope.body).map_err(EnvelopeError::Codec)
}

/// Unpacks a message of the command line on this host. It may leave the mesh out: the socket says which one is meant.
///
/// # Errors
/// [`EnvelopeError`].
pub fn open_local<T: DeserializeOwned>(mesh: &MeshId, envelope: &Envelope) -> Result<T, EnvelopeError> {
    if envelope.mesh.is_empty() {
        return codec::decode(Kind::Message, &envelope.body).map_err(EnvelopeError::Codec);
    }
    open(mesh, envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_envelopes() {
        mesh_fuzz::fuzz!("envelopes", |bytes| {
            let read = || <Envelope as prost::Message>::decode(bytes);
            let Ok(envelope) = mesh_fuzz::bounded(bytes.len(), read) else { return };
            let ours = MeshId::new("lab").unwrap();
            let opened = mesh_fuzz::bounded(bytes.len(), || open::<serde_json::Value>(&ours, &envelope));
            if let Ok(value) = opened {
                assert_eq!(envelope.mesh, "lab");
                let again = seal(&ours, &value).unwrap();
                assert_eq!(open::<serde_json::Value>(&ours, &again).unwrap(), value);
            }
            let local = open_local::<serde_json::Value>(&ours, &envelope);
            assert!(local.is_err() || envelope.mesh.is_empty() || envelope.mesh == "lab");
        });
    }
}
