//! Which addresses a webhook may go to: names are whatever a name server says today, so what they resolve to is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an endpoint's settings allow beyond the public internet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) loopback: bool,
    pub(super) private: bool,
}

/// What an address is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    Private,
    /// Never to be called, and why not.
    Never(&'static str),
}

impl Allowed {
    /// Whether this address may be called; if not, what it is and what would help.
    pub(super) fn check(self, address: IpAddr) -> Result<(), &'static str> {
        match kind(address) {
            Kind::Public => Ok(()),
            Kind::Loopback if self.loopback => Ok(()),
            Kind::Loopback => Err("a loopback address: allow_loopback is not set"),
            Kind::Private if self.private => Ok(()),
            Kind::Private => Err("a private address: allow_private is not set"),
            Kind::Never(what) => Err(what),
        }
    }
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Kind::Private,
        [0, ..] => Kind::Never("an unspecified address"),
        [169, 254, ..] => Kind::Never("a link-local address"),
        [224..=239, ..] => Kind::Never("a multicast address"),
        [240..=255, ..] | [192, 0, 0, _] | [192, 0, 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Kind::Never("a reserved address")
        }
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Never("an unspecified address"),
        [0xfc00..=0xfdff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::Never("a link-local address"),
        [0xff00..=0xffff, ..] => Kind::Never("a multicast address"),
        // Mapped, translated (NAT64), 6to4 and Teredo: what they lead to would be another address than the one that is checked.
        [0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] | [0x2002, ..] | [0x2001, 0, ..] => Kind::Never("an IPv4 address in another form"),
        [0x2001, 0xdb8, ..] => Kind::Never("a reserved address"),
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Never("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_called_unless_more_is_allowed() {
        let allowed = |loopback, private| Allowed { loopback, private };
        let permits = |address: &str| {
            let address = address.parse().expect("an address");
            [allowed(false, false), allowed(true, false), allowed(false, true)].map(|allowed| allowed.check(address).is_ok())
        };
        for address in ["1.1.1.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "223.255.255.255", "2606:4700::1111"] {
            assert_eq!(permits(address), [true; 3], "{address}");
        }
        for address in ["127.0.0.1", "127.8.9.10", "::1"] {
            assert_eq!(permits(address), [false, true, false], "{address}");
        }
        for address in ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fdff::1"] {
            assert_eq!(permits(address), [false, false, true], "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.9",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ] {
            assert_eq!(permits(address), [false; 3], "{address}");
        }
    }
}
