//! The tag on a target group: who led it where, and in which epoch. Of the characters that AWS allows in a tag.

use mesh_proto::{Epoch, GroupName, InstanceName};

use crate::fields::Fields;

/// The tag's key.
pub const MARKER_KEY: &str = "mesh-epoch";
/// Version of the text.
const VERSION: &str = "mesh1";

/// What a marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The group that the target group belongs to.
    pub group: GroupName,
    /// The epoch in which it was led.
    pub epoch: Epoch,
    /// The step that led it.
    pub step: String,
    /// The instance it leads to.
    pub instance: InstanceName,
}

/// The text is not a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no marker of mesh")]
pub struct MarkerError(pub String);

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, epoch, step, instance } = self;
        write!(f, "v={VERSION}/group={group}/epoch={}/step={step}/instance={instance}", epoch.0)
    }
}

impl std::str::FromStr for Marker {
    type Err = MarkerError;

    /// Strict: keys in their order, none more.
    fn from_str(text: &str) -> Result<Self, MarkerError> {
        read(text).ok_or_else(|| MarkerError(text.chars().take(200).collect()))
    }
}

fn read(text: &str) -> Option<Marker> {
    let mut fields = Fields::of(text, '/');
    if fields.next("v")? != VERSION {
        return None;
    }
    let marker = Marker {
        group: fields.read("group")?,
        epoch: Epoch(fields.read("epoch")?),
        step: fields.next("step")?.to_owned(),
        instance: fields.read("instance")?,
    };
    fields.end().map(|()| marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written_and_fits_into_a_tag() {
        let text = "v=mesh1/group=orders/epoch=42/step=7.3.1/instance=pg-dr";
        let marker: Marker = text.parse().unwrap();
        assert_eq!((marker.epoch, marker.instance.as_str()), (Epoch(42), "pg-dr"));
        assert_eq!(marker.to_string(), text);
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "+-=._:/@ ".contains(c)));
        for bad in [
            "",
            "yes",
            &text.replace("mesh1", "mesh2"),
            &text.replace("/step=7.3.1", ""),
            &format!("{text}/x"),
        ] {
            assert!(bad.parse::<Marker>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fuzz_marker() {
        mesh_fuzz::fuzz!("marker", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match mesh_fuzz::bounded(bytes.len(), || text.parse::<Marker>()) {
                Ok(marker) => assert_eq!(marker.to_string().parse(), Ok(marker)),
                Err(MarkerError(shown)) => assert!(shown.chars().count() <= 200),
            }
        });
    }
}
