//! Laws, to come.
