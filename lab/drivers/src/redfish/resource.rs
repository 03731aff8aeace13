//! What a BMC answers: JSON that may be anything.

use crate::child::shown;
use hyper::header::HeaderValue;
use serde_json::Value;

/// Messages of one error that are shown.
const MAX_MESSAGES: usize = 3;

/// A resource as it was when it was read.
#[derive(Debug)]
pub struct Resource {
    /// Where it was read.
    pub path: String,
    /// Its version, where the BMC tells one (DSP0266, “ETags”).
    pub etag: Option<HeaderValue>,
    /// What it says.
    pub json: Value,
}

impl Resource {
    /// Where a link leads: `["Links", "Sessions"]`. `None`: there is none, or
    /// none that leads to the BMC itself.
    pub fn link(&self, keys: &[&str]) -> Option<String> {
        let found = keys.iter().try_fold(&self.json, |at, key| at.get(key))?;
        reference(found)
    }

    /// Where the links of a list lead.
    pub fn links(&self, key: &str) -> Vec<String> {
        references(&self.json, key)
    }
}

/// Where the links of a list inside lead.
pub fn references(json: &Value, key: &str) -> Vec<String> {
    let list = json.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(reference).collect()
}

/// `{"@odata.id": "/redfish/v1/…"}` (DSP0266, “Reference properties”).
pub fn reference(link: &Value) -> Option<String> {
    path(link.get("@odata.id")?.as_str()?)
}

/// A path on the BMC itself; anything else that a link may be is none:
/// another scheme, another host (`//host/`), a part of a resource.
pub fn path(link: &str) -> Option<String> {
    let ours = link.starts_with('/') && !link.starts_with("//");
    let plain = link.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'\\');
    (ours && plain).then(|| link.to_owned())
}

/// The words of a list, where it is one.
pub fn words(list: Option<&Value>) -> Option<Vec<&str>> {
    Some(list?.as_array()?.iter().filter_map(Value::as_str).collect())
}

/// What a task says of how it went (the schema Task of DSP2046), without any
/// of `secrets`.
pub fn task_messages(task: &Value, secrets: &[&str]) -> String {
    let info = task.get("Messages").and_then(Value::as_array);
    let texts: Vec<&str> = info
        .into_iter()
        .flatten()
        .filter_map(|info| info.get("Message").or_else(|| info.get("MessageId")).and_then(Value::as_str))
        .take(MAX_MESSAGES)
        .collect();
    let said = if texts.is_empty() { "it does not say why".to_owned() } else { texts.join(" ") };
    shown(&without(&said, secrets))
}

/// The text with `…` in the place of each secret. Some repeat what they do not
/// like.
pub fn without(text: &str, secrets: &[&str]) -> String {
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    known.fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
}

/// What an error says (DSP0266, “Error responses”): its messages, or the one it has
/// in front of them.
pub fn messages(error: &Value) -> String {
    let Some(error) = error.get("error") else { return String::new() };
    let info = error.get("@Message.ExtendedInfo").and_then(Value::as_array);
    let texts: Vec<&str> = info
        .into_iter()
        .flatten()
        // Some say no message, and which one it is.
        .filter_map(|info| info.get("Message").or_else(|| info.get("MessageId")).and_then(Value::as_str))
        .filter(|text| !text.is_empty() && !text.ends_with(".GeneralError"))
        .take(MAX_MESSAGES)
        .collect();
    let texts = texts.join(" ");
    if texts.is_empty() {
        error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned()
    } else {
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_link_leads_to_the_bmc_itself() {
        for good in ["/redfish/v1/Systems/1", "/redfish/v1/Systems/System.Embedded.1?$select=Id"] {
            assert_eq!(reference(&json!({"@odata.id": good})).as_deref(), Some(good));
        }
        for bad in [
            "https://192.0.2.1/redfish/v1/",
            "//192.0.2.1/redfish",
            "/\\192.0.2.1/",
            "redfish/v1",
            "",
            "/a b",
            "/a\r\nX-Auth-Token: x",
            "/redfish/v1/Chassis/1#/Fans/0",
        ] {
            assert_eq!(reference(&json!({"@odata.id": bad})), None, "{bad}");
        }
        for odd in [json!({"@odata.id": 7}), json!([]), json!(null), json!("x"), json!({})] {
            assert_eq!(reference(&odd), None);
        }
    }

    #[test]
    fn an_error_is_told_in_its_own_words() {
        let error = json!({"error": {"code": "Base.1.8.GeneralError", "message": "See ExtendedInfo", "@Message.ExtendedInfo": [
            {"MessageId": "Base.1.8.X", "Message": "The one."}, {"MessageId": "Base.1.8.Y"}
        ]}});
        assert_eq!(messages(&error), "The one. Base.1.8.Y");
        let general = json!({"error": {"message": "No", "@Message.ExtendedInfo": [{"MessageId": "Base.1.0.GeneralError"}]}});
        assert_eq!(messages(&general), "No");
        for odd in
            [json!({"error": 7}), json!({"error": {"@Message.ExtendedInfo": {"Message": 1}}}), json!(null)]
        {
            assert_eq!(messages(&odd), "");
        }
    }
}
