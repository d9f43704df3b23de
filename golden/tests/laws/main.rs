//! What a store promises, tried from outside: laws over random files, every format, hostile and broken files,
//! crashes, full disks.

mod clones;
mod crashes;
mod formats;
mod full;
mod hostile;
mod images;
mod interrupted;
mod manifests;
mod scratch;
mod space;
mod uploads;
