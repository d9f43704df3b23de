//! What a store promises, tried from outside: laws over random files, every format, hostile and broken files,
//! crashes, full disks.

#[cfg(test)]
mod clones;
#[cfg(test)]
mod crashes;
#[cfg(test)]
#[path = "../../../tests/durable.rs"]
mod durable;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod full;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod images;
#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod scratch;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
#[cfg(test)]
mod space;
#[cfg(test)]
mod synced;
#[cfg(test)]
mod transfers;
#[cfg(test)]
mod uploads;
