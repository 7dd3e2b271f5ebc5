//! The marker beside a name: who led it where, and in which epoch. One line of text that people can read with `dig`.

use mesh_proto::spec::{DnsName, MARKER_LABEL};
use mesh_proto::{Epoch, GroupName, InstanceName, SiteName};

use crate::fields::Fields;

/// Version of the text.
const VERSION: &str = "mesh1";

/// Where the marker of a name stands.
pub(super) fn marker_name(name: &DnsName) -> String {
    format!("{MARKER_LABEL}.{name}")
}

/// What a marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The group that the name belongs to.
    pub group: GroupName,
    /// The epoch in which the name was led.
    pub epoch: Epoch,
    /// The step that led it.
    pub step: String,
    /// The site it leads to.
    pub site: SiteName,
    /// The instance it leads to.
    pub instance: InstanceName,
    /// The record's value that was written with it.
    pub value: String,
}

/// The text is not a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no marker of mesh")]
pub struct MarkerError(pub String);

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, epoch, step, site, instance, value } = self;
        write!(
            f,
            "v={VERSION};group={group};epoch={};step={step};site={site};instance={instance};value={value}",
            epoch.0
        )
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
    let mut fields = Fields::of(text, ';');
    if fields.next("v")? != VERSION {
        return None;
    }
    let marker = Marker {
        group: fields.read("group")?,
        epoch: Epoch(fields.read("epoch")?),
        step: fields.next("step")?.to_owned(),
        site: fields.read("site")?,
        instance: fields.read("instance")?,
        value: fields.next("value")?.to_owned(),
    };
    fields.end().map(|()| marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written_and_nothing_else_is() {
        let text = "v=mesh1;group=orders;epoch=42;step=7.3.1;site=dr;instance=pg-dr;value=10.1.0.1";
        let marker: Marker = text.parse().unwrap();
        assert_eq!((marker.epoch, marker.value.as_str()), (Epoch(42), "10.1.0.1"));
        assert_eq!(marker.to_string(), text);
        for bad in [
            "",
            "v=spf1 -all",
            &text.replace("mesh1", "mesh2"),
            &text.replace("42", "x"),
            &text.replace(";site=dr", ""),
            &format!("{text};more=1"),
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
