//! The API, asked as a client would, on a grid in memory.
//!
//! Each module says that it is for tests, so that lints know.

#[cfg(test)]
mod access;
#[cfg(test)]
mod alone;
#[cfg(test)]
mod described;
#[cfg(test)]
mod desktops;
#[cfg(test)]
mod events;
#[cfg(test)]
mod join;
#[cfg(test)]
mod level;
#[cfg(test)]
mod members;
#[cfg(test)]
mod people;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod world;
