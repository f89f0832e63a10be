//! What leaves this host: bundles, on their way to where people look for them.
//!
//! | part | one purpose |
//! | --- | --- |
//! | [`queue`] | what is still to be delivered, on disk |

pub mod queue;
