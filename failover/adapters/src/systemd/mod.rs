//! systemd units: started, stopped and looked at through `systemctl`, and read back. `systemctl stop` that answers 0 is no
//! proof that a service is gone: the state is asked for, and the process that was its main one is watched until it is dead.
//!
//! It never enables, masks or reloads a unit, and never asks for a password. A `systemctl` that was killed at its deadline has
//! left its job in systemd's queue, so what comes of it is unknown.

mod show;
mod unit;

pub use show::{Active, ShowError, State};
pub use unit::{Systemd, UnitError, UnitName, UnitNameError, outcome};
