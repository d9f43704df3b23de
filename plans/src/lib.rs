//! Every decision of Coppice: what would happen, to whom, and when.
//!
//! One pure function, [`plan()`], is the preview, the reconciler's mind, the drift report and the what-if. It is
//! total: trouble becomes a finding, delay becomes a wait that names what it waits for.

pub mod plan;
