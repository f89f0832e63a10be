//! What leaves this host: bundles, on their way to where people look for them.
//!
//! | part | one purpose |
//! | --- | --- |
//! | [`queue`] | what is still to be delivered, on disk |
//! | [`archive`] | a bundle as one `.tar.gz` |

pub mod archive;
pub mod queue;
