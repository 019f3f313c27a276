//! The shipped advisories, the schema's mistakes, and what is said of real kernels.

mod armed;
mod bundles;
mod files;
mod kernels;
mod properties;
