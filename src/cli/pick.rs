//! What the words on a command line mean: filters, and things by name.

use super::fail::Fail;
use super::{Context, Result};
use pitstop_wire::api::ReservationState;
use pitstop_wire::{ApiError, Code, MachineName, Selector};

/// A filter, as cut by the shell.
pub fn filter(words: &[String]) -> Result<Selector> {
    Selector::from_args(words).map_err(|e| {
        let several = words.iter().find(|w| w.contains(',') && !w.contains(['=', '<', '>', '"', ' ']));
        Fail::usage(e.to_string()).hint(match several {
            Some(names) => format!("{}\nseveral machines: name={names}", e.underlined()),
            None => e.underlined(),
        })
    })
}

/// A machine or a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// By name.
    Machine(MachineName),
    /// `R-17`
    Reservation(String),
}

/// Reads `imx8-01` or `R-17`. Whether a machine may be called `R-17`? Not
/// one that people want to talk about.
pub fn thing(word: &str) -> Result<Thing> {
    let number = word.strip_prefix("R-").or_else(|| word.strip_prefix("r-"));
    if let Some(number) = number
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        return Ok(Thing::Reservation(format!("R-{number}")));
    }
    Ok(Thing::Machine(machine_name(word)?))
}

/// Reads a machine's name.
pub fn machine_name(word: &str) -> Result<MachineName> {
    MachineName::new(word).map_err(|e| {
        let fail = Fail::usage(format!("`{word}`: {e}"));
        if word.contains('=') {
            return fail.hint(format!(
                "this takes a machine's name, no FILTER; which match: pitstop ls {word} -o name"
            ));
        }
        fail
    })
}

/// What `reserve … -- CMD` tells CMD.
fn of_session(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

/// The machine that is meant: the one named, or that of the session this
/// runs in, or the only one the caller holds.
pub async fn machine(cx: &Context, named: Option<&str>) -> Result<MachineName> {
    let session = of_session("PITSTOP_MACHINE");
    if let Some(word) = named.or(session.as_deref()) {
        return machine_name(word);
    }
    let mine = cx.client.status().await?.mine;
    let held = |s| matches!(s, ReservationState::Active | ReservationState::Ready);
    let mut machines: Vec<_> =
        mine.into_iter().filter(|r| held(r.state)).flat_map(|r| r.machines).map(|m| m.machine).collect();
    match (machines.pop(), machines.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            machines.push(last);
            let names = machines.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
            Err(Fail::usage(format!("which machine? You hold {names}")))
        }
        (None, _) => Err(Fail::from(
            ApiError::new(Code::NotFound, "you hold no machine").hint("pitstop reserve FILTER"),
        )),
    }
}

/// The reservation that is meant: named, or by its machine, or that of the
/// session this runs in, or the caller's only one.
pub async fn reservation(cx: &Context, named: Option<&str>) -> Result<String> {
    let session = of_session("PITSTOP_RESERVATION");
    match named.or(session.as_deref()).map(thing).transpose()? {
        Some(Thing::Reservation(id)) => Ok(id),
        Some(Thing::Machine(name)) => match cx.client.machine(&name).await?.holder {
            Some(holder) => Ok(holder.reservation),
            None => Err(ApiError::new(Code::Conflict, format!("nobody holds {name}"))
                .hint(format!("pitstop reserve {name}"))
                .into()),
        },
        None => {
            let mut mine: Vec<String> = cx.client.status().await?.mine.into_iter().map(|r| r.id).collect();
            match (mine.pop(), mine.is_empty()) {
                (Some(only), true) => Ok(only),
                (Some(last), false) => {
                    mine.push(last);
                    Err(Fail::usage(format!("which reservation? You have {}", mine.join(", "))))
                }
                (None, _) => Err(ApiError::new(Code::NotFound, "you have no reservation")
                    .hint("pitstop reserve FILTER")
                    .into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_r_are_reservations_and_the_rest_are_machines() {
        assert_eq!(thing("r-17").unwrap(), Thing::Reservation("R-17".into()));
        assert_eq!(thing("R-x").unwrap(), Thing::Machine(MachineName::new("R-x").unwrap()));
        assert_eq!(thing("imx8-01").unwrap(), Thing::Machine(MachineName::new("imx8-01").unwrap()));
        assert!(thing("../x").is_err());
    }

    #[test]
    fn a_bad_filter_is_underlined() {
        let Err(Fail::Said(error)) = filter(&["soc=imx8".into(), "ram=".into()]) else { panic!("was taken") };
        assert_eq!(error.code, Code::Usage);
        assert!(error.hint.unwrap().contains('^'));
    }
}
