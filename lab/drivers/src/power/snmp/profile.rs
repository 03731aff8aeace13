//! Which objects switch and tell, by kind of device.

use async_snmp::Oid;
use pitstop_core::inventory::DriverSpec;

/// The kinds there are.
pub const NAMES: &[&str] = &["oid", "apc", "apc-rpdu", "apc-rpdu2", "raritan", "cyberpower", "poe"];

/// The objects of one outlet, and what their values mean.
pub struct Profile {
    pub set: Oid,
    pub on: i32,
    pub off: i32,
    pub state: Oid,
    pub is_on: i32,
    pub is_off: i32,
}

/// A kind of device.
struct Kind {
    set: &'static str,
    /// Values for on and off.
    values: (i32, i32),
    state: &'static str,
    /// Values when on and off.
    states: (i32, i32),
}

/// From the makers' MIBs: PowerNet-MIB (APC), PDU2-MIB (Raritan), CPS-MIB
/// (CyberPower), and RFC 3621 (Power over Ethernet).
fn kind(name: &str) -> Option<Kind> {
    let (set, values, state, states) = match name {
        // sPDUOutletCtl
        "apc" => ("1.3.6.1.4.1.318.1.1.4.4.2.1.3", (1, 2), "1.3.6.1.4.1.318.1.1.4.4.2.1.3", (1, 2)),
        // rPDUOutletControlOutletCommand, rPDUOutletStatusOutletState
        "apc-rpdu" => {
            ("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4", (1, 2), "1.3.6.1.4.1.318.1.1.12.3.5.1.1.4", (1, 2))
        }
        // rPDU2OutletSwitchedControlCommand, rPDU2OutletSwitchedStatusState.
        // What is read is the other way round than what is set.
        "apc-rpdu2" => {
            ("1.3.6.1.4.1.318.1.1.26.9.2.4.1.5", (1, 2), "1.3.6.1.4.1.318.1.1.26.9.2.3.1.5", (2, 1))
        }
        // switchingOperation and outletSwitchingState of the first PDU
        "raritan" => ("1.3.6.1.4.1.13742.6.4.1.2.1.2.1", (1, 0), "1.3.6.1.4.1.13742.6.4.1.2.1.3.1", (7, 8)),
        // ePDUOutletControlOutletCommand, ePDUOutletStatusOutletState
        "cyberpower" => {
            ("1.3.6.1.4.1.3808.1.1.3.3.3.1.1.4", (1, 2), "1.3.6.1.4.1.3808.1.1.3.3.5.1.1.4", (1, 2))
        }
        // pethPsePortAdminEnable: true, false
        "poe" => ("1.3.6.1.2.1.105.1.1.1.3", (1, 2), "1.3.6.1.2.1.105.1.1.1.3", (1, 2)),
        _ => return None,
    };
    Some(Kind { set, values, state, states })
}

impl Profile {
    /// The outlet that the inventory names.
    ///
    /// # Errors
    /// Something is missing, or stands where the profile decides.
    pub fn of(spec: &DriverSpec) -> Result<Self, String> {
        let outlet = spec.text("outlet").unwrap_or_default();
        let number = |part: &str| part.parse::<u32>().is_ok() && part.bytes().all(|b| b.is_ascii_digit());
        if !outlet.split('.').all(number) {
            return Err(format!("`{outlet}` is no outlet: a number, or several with dots between them"));
        }
        let name = spec.text("profile").unwrap_or("oid");
        let int = |field: &str| spec.int(field).and_then(|value| i32::try_from(value).ok());
        let Some(kind) = kind(name) else {
            let set = spec.text("oid").ok_or("the profile `oid` needs `oid`, the object that is set")?;
            let (on, off) = (int("on").unwrap_or(1), int("off").unwrap_or(2));
            return Ok(Self {
                set: object(set, outlet)?,
                on,
                off,
                state: object(spec.text("state_oid").unwrap_or(set), outlet)?,
                is_on: int("is_on").unwrap_or(on),
                is_off: int("is_off").unwrap_or(off),
            });
        };
        for field in ["oid", "state_oid", "on", "off", "is_on", "is_off"] {
            if spec.fields.contains_key(field) {
                return Err(format!("`{field}` is what the profile {name} knows by itself"));
            }
        }
        // A switch that is no stack has one group, the first.
        let outlet =
            if name == "poe" && !outlet.contains('.') { format!("1.{outlet}") } else { outlet.to_owned() };
        Ok(Self {
            set: object(kind.set, &outlet)?,
            on: kind.values.0,
            off: kind.values.1,
            state: object(kind.state, &outlet)?,
            is_on: kind.states.0,
            is_off: kind.states.1,
        })
    }
}

fn object(oid: &str, outlet: &str) -> Result<Oid, String> {
    Oid::parse(&format!("{}.{outlet}", oid.trim_start_matches('.'))).map_err(|e| format!("`{oid}`: {e}"))
}
