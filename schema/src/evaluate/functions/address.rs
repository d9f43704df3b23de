//! `cidrhost`, and networks in CIDR notation.

use std::net::IpAddr;

use super::{Call, Eval, Evaluator};
use crate::value::Value;

/// The address and the length of the prefix of a network such as "10.1.0.0/16", when no host bit is set.
pub(crate) fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let plain = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|_| plain)?;
    let (bits, width) = bits(address);
    let hosts = width.checked_sub(length)?;
    let mask = if hosts >= 128 {
        u128::MAX
    } else {
        (1 << hosts) - 1
    };
    (bits & mask == 0).then_some((address, length))
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

pub(super) fn cidrhost(e: &Evaluator<'_>, call: &Call<'_>) -> Eval {
    let (text, number) = (e.text(call, 0), e.integer(call, 1));
    let (text, number) = (text?, number?);
    let Some((address, length)) = network(&text) else {
        return e.wrong(call, 0, "a network such as \"10.1.0.0/16\"");
    };
    let (bits, width) = bits(address);
    let hosts = width - length;
    let size = if hosts >= 127 {
        1 << 127
    } else {
        1u128 << hosts
    };
    // Counted from the end when negative, as in Terraform.
    let magnitude = u128::from(number.unsigned_abs());
    let offset = if number >= 0 {
        Some(magnitude)
    } else {
        size.checked_sub(magnitude)
    };
    let Some(offset) = offset.filter(|offset| *offset < size) else {
        return e.wrong(call, 1, "the number of a host in this network");
    };
    let bits = bits | offset;
    let host = match address {
        IpAddr::V4(_) => u32::try_from(bits).ok().map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(bits.into())),
    };
    host.map_or_else(
        || e.wrong(call, 1, "the number of a host in this network"),
        |host| Ok(Value::text(host.to_string())),
    )
}
