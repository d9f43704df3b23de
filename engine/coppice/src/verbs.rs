//! What a person can ask for: a file per verb.

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod ca;
pub(crate) mod completion;
pub(crate) mod demo;
pub(crate) mod desktop;
pub(crate) mod doctor;
pub(crate) mod drift;
pub(crate) mod explain;
pub(crate) mod fmt;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod man;
pub(crate) mod pause;
pub(crate) mod plan;
pub(crate) mod restore;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod server;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod validate;
