//! Values of options that are more than text: ranges of addresses and ports, times, amounts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use balsa_model::quantity::Quantity;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cidr(pub(crate) Ipv4Net);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range: Ipv4Net = text
            .parse()
            .map_err(|_| format!("\"{text}\" is not a range of IPv4 addresses like 10.96.0.0/16"))?;
        Ok(Self(range.trunc()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Cidr> for IpNet {
    fn from(cidr: Cidr) -> Self {
        Self::V4(cidr.0)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PortRange(pub(crate) u16, pub(crate) u16);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends =
            text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match ends {
            Some((first, last)) if 0 < first && first <= last => Ok(Self(first, last)),
            _ => Err(format!("\"{text}\" is not a range of ports like 30000-32767")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// A time, not endless and not nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Period(pub(crate) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match crate::commands::duration(text)? {
            Some(period) if !period.is_zero() => Ok(Self(period)),
            _ => Err(format!("\"{text}\" must be longer than nothing, and end")),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// How long a node may be silent: nodes are heard of every ten seconds, and one time may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct NodeGrace(pub(crate) Duration);

impl NodeGrace {
    const LEAST: Duration = Duration::from_secs(20);
}

impl FromStr for NodeGrace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Period(grace) = text.parse()?;
        if grace < Self::LEAST {
            return Err(format!("\"{text}\" is less than 20s, and nodes that live would be taken for dead"));
        }
        Ok(Self(grace))
    }
}

impl fmt::Display for NodeGrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Period(self.0).fmt(f)
    }
}

/// An amount of bytes, as Kubernetes writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TextOrNumber", into = "String")]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let amount = Quantity::parse(text).ok().and_then(|amount| u64::try_from(amount.value()).ok());
        amount.map(Self).ok_or_else(|| format!("\"{text}\" is not an amount of bytes like 512Mi or 2Gi"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}Gi", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}Mi", bytes >> 20),
            bytes => bytes.fmt(f),
        }
    }
}

impl TryFrom<TextOrNumber> for Bytes {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Self, Self::Error> {
        match value {
            TextOrNumber::Text(text) => text.parse(),
            TextOrNumber::Number(bytes) => Ok(Self(bytes)),
        }
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

/// A number of bytes need not be in quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(u64),
    Text(String),
}

macro_rules! through_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

through_text! { Cidr NodeGrace Period PortRange }

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!("10.1.2.3/16".parse::<Cidr>().unwrap().to_string(), "10.1.0.0/16");
        assert_eq!("30000-32767".parse::<PortRange>().unwrap(), PortRange(30000, 32767));
        for wrong in ["", "5", "9-5", "0-5", "1-70000"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
        assert!("10.0.0.0".parse::<Cidr>().is_err());
    }

    #[test]
    fn a_grace_leaves_room_for_a_beat_that_is_missed() {
        assert_eq!("1m".parse::<NodeGrace>().unwrap().to_string(), "60s");
        assert!("19s".parse::<NodeGrace>().unwrap_err().contains("less than 20s"));
        assert!(serde_yaml_ng::from_str::<NodeGrace>("5s").is_err(), "in a file likewise");
    }

    #[test]
    fn amounts_are_read_and_written() {
        for (text, bytes) in [("0", 0), ("2Gi", 2 << 30), ("512Mi", 512 << 20), ("1500", 1500)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes));
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        for wrong in ["", "-1", "much", "2 Gi"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
        assert_eq!(serde_yaml_ng::from_str::<Bytes>("7").unwrap(), Bytes(7));
    }
}
