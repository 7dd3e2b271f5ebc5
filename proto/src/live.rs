//! Where epochs are held outside the log, as somebody looked at them just now: what `mesh audit live` compares.

use serde::{Deserialize, Serialize};

use crate::{AgentName, Epoch, GroupName, InstanceName, Wall};

/// What another agent is asked: the places of a group that only it can look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveAsk {
    /// The group.
    pub group: GroupName,
    /// The epoch that the asking agent's log has.
    pub epoch: Epoch,
    /// The primary of that epoch.
    pub primary: InstanceName,
}

/// Every place that holds an epoch, or leads somewhere by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveView {
    /// The agent that looked and asked the others.
    pub agent: AgentName,
    /// When, by its wall clock.
    pub at: Wall,
    /// The groups.
    pub groups: Vec<LiveGroup>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveGroup {
    /// Its name.
    pub group: GroupName,
    /// The epoch that the log has.
    pub epoch: Epoch,
    /// The primary of that epoch.
    pub primary: InstanceName,
    /// Whether a run goes on: until it is over, places may lag for good reason.
    pub running: bool,
    /// The places.
    pub places: Vec<Place>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// Which one.
    pub name: String,
    /// The agent that looked at it.
    pub by: AgentName,
    /// What it holds.
    pub holds: Holds,
}

/// The kinds of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceKind {
    /// The epoch gate of an instance's guard.
    Guard,
    /// The newest row of `mesh.epoch` in an instance's database.
    Database,
    /// The epoch gate of a route, on the disk of the agent that leads it.
    RouteGate,
    /// The marker beside a name.
    DnsMarker,
    /// Where a route leads, read back from what carries it.
    Route,
}

impl std::fmt::Display for PlaceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Guard => "guard",
            Self::Database => "database",
            Self::RouteGate => "route gate",
            Self::DnsMarker => "dns marker",
            Self::Route => "route",
        })
    }
}

/// What a place holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// An epoch; of a database and a marker with the instance beside it.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// Whose.
        of: Option<InstanceName>,
    },
    /// It leads to the primary; sessions to others that are left.
    LeadsThere {
        /// Sessions.
        stragglers: u32,
    },
    /// It leads elsewhere, and how.
    Elsewhere(String),
    /// Nothing yet.
    Nothing,
    /// Nobody could look, and why.
    NotSeen(String),
}

/// How a place compares with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// As the log says.
    Agrees,
    /// It holds an older epoch, leads elsewhere, or holds nothing yet.
    Lags,
    /// It holds a newer epoch than this agent's log, or the same epoch of another instance.
    Contradicts,
    /// Nobody could look.
    NotSeen,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Agrees => "agrees",
            Self::Lags => "lags",
            Self::Contradicts => "contradicts",
            Self::NotSeen => "not seen",
        })
    }
}

impl LiveGroup {
    /// How a place of this group compares with the log.
    #[must_use]
    pub fn standing(&self, place: &Place) -> Standing {
        match &place.holds {
            Holds::Epoch { epoch, of } => match epoch.cmp(&self.epoch) {
                std::cmp::Ordering::Less => Standing::Lags,
                std::cmp::Ordering::Greater => Standing::Contradicts,
                std::cmp::Ordering::Equal if of.as_ref().is_some_and(|of| *of != self.primary) => {
                    Standing::Contradicts
                }
                std::cmp::Ordering::Equal => Standing::Agrees,
            },
            Holds::LeadsThere { .. } => Standing::Agrees,
            Holds::Elsewhere(_) | Holds::Nothing => Standing::Lags,
            Holds::NotSeen(_) => Standing::NotSeen,
        }
    }
}

impl LiveView {
    /// The worst that was found anywhere; nothing to compare agrees.
    #[must_use]
    pub fn worst(&self) -> Standing {
        let all = self.groups.iter().flat_map(|group| group.places.iter().map(|place| group.standing(place)));
        // What was seen to be wrong counts before what was not seen.
        let rank = |standing: &Standing| match standing {
            Standing::Agrees => 0,
            Standing::NotSeen => 1,
            Standing::Lags => 2,
            Standing::Contradicts => 3,
        };
        all.max_by_key(rank).unwrap_or(Standing::Agrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_compared_with_the_log() {
        let place = |holds| Place {
            kind: PlaceKind::Guard,
            name: "pg-dr".to_owned(),
            by: "dr-1".parse().unwrap(),
            holds,
        };
        let epoch = |epoch, of: Option<&str>| Holds::Epoch {
            epoch: Epoch(epoch),
            of: of.map(|of| of.parse().unwrap()),
        };
        let group = LiveGroup {
            group: "orders".parse().unwrap(),
            epoch: Epoch(3),
            primary: "pg-dr".parse().unwrap(),
            running: false,
            places: Vec::new(),
        };
        for (holds, expected) in [
            (epoch(3, None), Standing::Agrees),
            (epoch(3, Some("pg-dr")), Standing::Agrees),
            (epoch(3, Some("pg-east")), Standing::Contradicts),
            (epoch(2, Some("pg-east")), Standing::Lags),
            (epoch(4, None), Standing::Contradicts),
            (Holds::LeadsThere { stragglers: 1 }, Standing::Agrees),
            (Holds::Elsewhere("pg-east is in".to_owned()), Standing::Lags),
            (Holds::Nothing, Standing::Lags),
            (Holds::NotSeen("no answer".to_owned()), Standing::NotSeen),
        ] {
            assert_eq!(group.standing(&place(holds.clone())), expected, "{holds:?}");
        }
        let places = vec![place(epoch(2, None)), place(epoch(3, None))];
        let view = |places| LiveView {
            agent: "dr-1".parse().unwrap(),
            at: Wall(0),
            groups: vec![LiveGroup { places, ..group.clone() }],
        };
        assert_eq!(view(Vec::new()).worst(), Standing::Agrees);
        assert_eq!(view(places).worst(), Standing::Lags);
    }
}
