//! A daemon.
